"""lmms-eval's own wrappers, steered: `steered_qwen2_5_vl` is its `qwen2_5_vl` with a spec's keys among its arguments.

The classes are made when they are asked for: `lmms_steer.harness.wrapped.steered_NAME` and `….steered_NAME_simple`.
"""

import inspect
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from lmms_steer.errors import UserError, first_line
from lmms_steer.harness import patches
from lmms_steer.harness.plugin import engine_error, runs_in_engine
from lmms_steer.harness.steered import LmmsEvalSteering
from lmms_steer.models.loading import load_or_refuse
from lmms_steer.vectors.backbones import checkpoint

CHECKPOINT = ("pretrained", "model_id_name")
"""What wrappers call the checkpoint that they load (Phi-3-vision's has a name of its own for it)."""


def __getattr__(name: str) -> type[LmmsEvalSteering]:
    """PEP 562: what lmms-eval's registry looks up by a dotted path."""
    if not name.startswith("steered_"):
        raise AttributeError(name)
    simple = name.endswith("_simple")
    try:
        made = steered_class(name.removeprefix("steered_").removesuffix("_simple"), simple)
    except UserError as error:
        patches.end_command_line(error)
        raise
    globals()[name] = made
    return made


def steered_class(model: str, simple: bool = False) -> type[LmmsEvalSteering]:
    """lmms-eval's wrapper of that name with steering in front of it.

    Args:
        model: a name that `lmms-eval --model` takes.
        simple: its simple class, where it has both.

    Raises:
        UserError: for a wrapper of an engine or of an API, whose layers are out of reach, one that loads no checkpoint,
            or one that asks for a package that is not there.
    """
    if runs_in_engine(model):
        raise engine_error(model)
    from lmms_eval.models import get_model

    try:
        base = get_model(model, force_simple=simple)
    except (ImportError, AttributeError) as error:
        raise UserError(f"lmms-eval's {model} cannot be imported: {first_line(error)}") from error
    said, options = _checkpoint_of(model, base)

    def __init__(self: Any, **model_args: Any) -> None:
        self.take_spec(model_args)
        named = model_args.get(said.name, said.default)
        if named in (None, inspect.Parameter.empty):
            raise UserError(f"no model: add {said.name}=NAME to --model_args, a Hub id or a folder")
        self.pretrained = str(named)
        source = checkpoint(self.pretrained)
        if said.name in model_args:
            model_args[said.name] = source
        # as the wrapper will load it, and before the weights, so that a mistake is not paid for with them
        loading = {**options, **{name: model_args[name] for name in _LOADING if name in model_args}}
        self.resolve_for(load_or_refuse(self.pretrained, AutoConfig.from_pretrained, source, **loading))
        base.__init__(self, **model_args)
        own = vars(self)
        held = next((m for m in (own.get("_model"), own.get("model")) if m is not None), None)
        held = getattr(held, "module", held)
        if not isinstance(held, PreTrainedModel):
            raise UserError(f"{model} holds no transformers model ({type(held).__name__}): it cannot be steered")
        self.attach_to(held, own.get("processor") or own.get("_processor") or own.get("_tokenizer"))

    return type(f"Steered{base.__name__}", (LmmsEvalSteering, base), {"__init__": __init__, "__module__": __name__})


_LOADING = ("revision", "trust_remote_code")


def _checkpoint_of(model: str, base: type) -> tuple[inspect.Parameter, dict[str, Any]]:
    """The argument that names the checkpoint, of a parent where all is handed on, and how it is loaded unless told."""
    for kind in base.__mro__:
        making = vars(kind).get("__init__")
        known = inspect.signature(making).parameters if making is not None else {}
        for name in CHECKPOINT:
            if name in known:
                given = {key: known[key].default for key in _LOADING if key in known}
                return known[name], {key: value for key, value in given.items() if isinstance(value, str | bool)}
    raise UserError(f"{model} loads no checkpoint (it has no {' or '.join(CHECKPOINT)}): it cannot be steered")
