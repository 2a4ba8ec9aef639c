"""What a glance finds wrong with `--model` and `--model_args`: to import torch and lmms-eval takes ten seconds."""

from lmms_steer.errors import unknown_name
from lmms_steer.extraction.first_use import check_vectors
from lmms_steer.harness.plugin import MODELS
from lmms_steer.models import MODEL_ARGS
from lmms_steer.steering.intervention import FIELDS
from lmms_steer.steering.spec import SteeringSpec

STEERED_MODEL_ARGS = ("steering", *FIELDS, *MODEL_ARGS)
"""What may stand in the `--model_args` of our models."""


def check_model_args(model: str, model_args: str) -> tuple[str | None, SteeringSpec]:
    """The checkpoint that is named, and the spec; nothing where only lmms-eval's own parser can tell.

    Raises:
        UserError: for a model that is not ours, an argument that it has not, a spec that cannot be read, a vector that
            no store has and that cannot be made here.
    """
    check_model(model)
    if set("\"'[]{}") & set(model_args):
        return None, SteeringSpec()
    args = dict(part.strip().split("=", 1) for part in model_args.split(",") if "=" in part)
    for name in args:
        if name not in STEERED_MODEL_ARGS:
            raise unknown_name("model_arg", name, STEERED_MODEL_ARGS)
    spec = SteeringSpec.from_args(args)
    if "pretrained" in args:
        check_vectors(spec, args["pretrained"])
    return args.get("pretrained"), spec


def check_model(model: str) -> None:
    """
    Raises:
        UserError: for a `--model` that is not ours.
    """
    if model not in MODELS:
        raise unknown_name("model", model, MODELS)
