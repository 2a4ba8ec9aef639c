"""lmms-eval's own wrappers, steered: `steered_qwen2_5_vl` is its `qwen2_5_vl` with a spec's keys among its arguments.

The classes are made when they are asked for: `lmms_steer.models.wrapped.steered_NAME` and `….steered_NAME_simple`.
"""

import inspect
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from lmms_steer import lmms_eval_seams as seams
from lmms_steer.backbones import checkpoint
from lmms_steer.errors import UserError, one_line
from lmms_steer.models.from_args import FromArgs
from lmms_steer.models.settings import loaded

ENGINES = ("vllm", "sglang", "api", "openai", "gemini", "claude", "gpt", "litellm", "reka", "fastvideo", "trtllm")
"""Parts of the names of wrappers whose model runs elsewhere."""


def __getattr__(name: str) -> type[FromArgs]:
    """PEP 562: what lmms-eval's registry looks up by a dotted path."""
    if not name.startswith("steered_"):
        raise AttributeError(name)
    simple = name.endswith("_simple")
    try:
        made = steered_class(name.removeprefix("steered_").removesuffix("_simple"), simple)
    except UserError as error:
        seams.end_command_line(error)
        raise
    globals()[name] = made
    return made


def steered_class(model: str, simple: bool = False) -> type[FromArgs]:
    """lmms-eval's wrapper of that name with steering in front of it.

    Args:
        model: a name that `lmms-eval --model` takes.
        simple: its simple class, where it has both.

    Raises:
        UserError: for a wrapper of an engine or of an API, whose layers are out of reach, or one that asks for a
            package that is not there.
    """
    if any(part in model.split("_") for part in ENGINES):
        raise UserError(f"{model} runs its model in an engine or behind an API, out of reach: it cannot be steered")
    from lmms_eval.models import get_model

    try:
        base = get_model(model, force_simple=simple)
    except ImportError as error:
        raise UserError(f"lmms-eval's {model} cannot be imported: {one_line(error)}") from error

    def __init__(self: Any, **model_args: Any) -> None:
        self.take_spec(model_args)
        if "pretrained" in model_args:
            model_args["pretrained"] = checkpoint(named := str(model_args["pretrained"]))
        else:
            named = str(inspect.signature(base.__init__).parameters["pretrained"].default)
        self.pretrained = named
        # before the wrapper loads the weights, so that a mistake is not paid for with them
        self.resolve_for(loaded(named, AutoConfig.from_pretrained, checkpoint(named)))
        base.__init__(self, **model_args)
        own = vars(self)
        held = next((m for m in (own.get("_model"), own.get("model")) if m is not None), None)
        held = getattr(held, "module", held)
        if not isinstance(held, PreTrainedModel):
            raise UserError(f"{model} holds no transformers model ({type(held).__name__}): it cannot be steered")
        self.attach_to(held, own.get("processor") or own.get("_tokenizer"))

    return type(f"Steered{base.__name__}", (FromArgs, base), {"__init__": __init__, "__module__": __name__})
