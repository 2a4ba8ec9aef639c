"""lmms-eval's own wrappers, steered: `steered_qwen2_5_vl` is its `qwen2_5_vl` that also takes the keys of a spec.

The classes are made when they are first used, as attributes of this module: `steered_NAME` and `steered_NAME_simple`.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import AutoConfig, PreTrainedModel

from lmms_steer.errors import UserError, first_line
from lmms_steer.harness.command_line import end_command_line
from lmms_steer.harness.names import engine_error, runs_in_engine
from lmms_steer.harness.steered import LmmsEvalSteering
from lmms_steer.models.loading import load_or_refuse, no_model
from lmms_steer.steering.anatomy import unwrap
from lmms_steer.vectors.backbones import checkpoint

CHECKPOINT = ("pretrained", "model_id_name")
"""The names of the argument for the checkpoint in lmms-eval's wrappers (Phi-3-vision's differs from the others)."""
_LOADING = ("revision", "trust_remote_code")
"""Arguments of wrappers that also matter for loading the config."""
_PROCESSORS = ("processor", "_processor", "_image_processor", "_tokenizer", "tokenizer")
"""Attributes in which wrappers keep their processor, or else their tokenizer. `_image_processor` is either a processor
(LLaVA, InstructBLIP, Aria) or one of images alone."""


def __getattr__(name: str) -> type[LmmsEvalSteering]:
    """Make the class that lmms-eval's registry looks up by a dotted path (PEP 562)."""
    if not name.startswith("steered_"):
        raise AttributeError(name)
    simple = name.endswith("_simple")
    try:
        steered = steered_class(name.removeprefix("steered_").removesuffix("_simple"), simple)
    except UserError as error:
        end_command_line(error)
        raise
    globals()[name] = steered
    return steered


def steered_class(model: str, simple: bool = False) -> type[LmmsEvalSteering]:
    """A subclass of one of lmms-eval's wrappers, with steering.

    Args:
        model: a name that `lmms-eval --model` takes.
        simple: whether to take the simple class of a wrapper that has both a simple and a chat class.

    Raises:
        UserError: for a wrapper of an engine or an API, whose layers cannot be reached, one that loads no checkpoint,
            or one that needs a package that is not installed.
    """
    if runs_in_engine(model):
        raise engine_error(model)
    from lmms_eval.models import get_model

    try:
        base = get_model(model, force_simple=simple)
    except (ImportError, AttributeError) as error:
        raise UserError(f"lmms-eval's {model} cannot be imported: {first_line(error)}") from error
    argument, options = _checkpoint_argument(model, base)

    def __init__(self: Any, **model_args: Any) -> None:
        self.take_spec(model_args)
        named = model_args.get(argument.name, argument.default)
        if named in (None, inspect.Parameter.empty):
            raise no_model(argument.name)
        self.pretrained = str(named)
        source = checkpoint(self.pretrained)
        if argument.name in model_args:
            model_args[argument.name] = source
        # the config is loaded as the wrapper will load it, and before the weights, to find mistakes early
        loading = {**options, **{name: model_args[name] for name in _LOADING if name in model_args}}
        config = load_or_refuse(self.pretrained, AutoConfig.from_pretrained, source, **loading)
        self.resolve_for(config, revision=loading.get("revision"))
        base.__init__(self, **model_args)
        attributes = vars(self)
        loaded = next((m for m in (attributes.get("_model"), attributes.get("model")) if m is not None), None)
        if not isinstance(loaded, nn.Module) or not isinstance(unwrap(loaded), PreTrainedModel):
            raise UserError(f"{model} has no transformers model ({type(loaded).__name__}): it cannot be steered")
        self.attach_to(loaded, _processor_of(attributes))

    return type(f"Steered{base.__name__}", (LmmsEvalSteering, base), {"__init__": __init__, "__module__": __name__})


def _processor_of(attributes: Mapping[str, Any]) -> Any:
    """The processor among a wrapper's attributes, or else its tokenizer; None where it keeps neither."""
    found = [attributes[name] for name in _PROCESSORS if attributes.get(name) is not None]
    return next((one for one in found if hasattr(one, "tokenizer") or hasattr(one, "all_special_ids")), None)


def _checkpoint_argument(model: str, base: type) -> tuple[inspect.Parameter, dict[str, Any]]:
    """The argument that names the checkpoint, and the wrapper's defaults for `_LOADING`.

    They are those of the first class in the inheritance order that has the argument, since a wrapper may pass all its
    arguments to a parent.
    """
    for parent in base.__mro__:
        init = vars(parent).get("__init__")
        parameters = inspect.signature(init).parameters if init is not None else {}
        for name in CHECKPOINT:
            if name in parameters:
                defaults = {key: parameters[key].default for key in _LOADING if key in parameters}
                options = {key: value for key, value in defaults.items() if isinstance(value, str | bool)}
                return parameters[name], options
    raise UserError(f"{model} loads no checkpoint (it has no {' or '.join(CHECKPOINT)}): it cannot be steered")
