"""How lmms-eval makes a steered model from its command line."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Self

from lmms_eval.utils import simple_parse_args_string

from lmms_steer import lmms_eval_seams as seams
from lmms_steer.errors import UserError
from lmms_steer.models.glance import check_model
from lmms_steer.models.names import MODELS
from lmms_steer.models.steering import Steering


class FromArgs(Steering):
    """`Steering` that lmms-eval can make."""

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: Mapping[str, Any] | None = None) -> Self:
        """What lmms-eval calls. A user's mistake ends its command line with status 2 and our line as the last one."""
        try:
            lm = cls(**_merged(arg_string, additional_config or {}))
        except UserError as error:
            seams.end_command_line(error)
            raise
        seams.install(lm, arg_string)
        return lm


def model_named(model: str, model_args: str, **more: Any) -> Any:
    """One of our own models, by its `--model` name and `--model_args`, outside of lmms-eval.

    Raises:
        UserError: for a model that is not ours, and for whatever is wrong with its arguments.
    """
    check_model(model)
    module, name = MODELS[model].rsplit(".", 1)
    return getattr(import_module(module), name)(**_merged(model_args, more))


def _merged(arg_string: str, additional: Mapping[str, Any]) -> dict[str, Any]:
    try:
        args: dict[str, Any] = simple_parse_args_string(arg_string)
    except ValueError as error:
        raise UserError(
            f"cannot read --model_args {arg_string!r}: expected key=value pairs with commas between"
        ) from error
    for key, value in additional.items():
        if value is None:
            continue
        # --batch_size has a default, so one in model_args is the one that the user said
        args.setdefault(key, value)
    return args
