"""Check `--model` and `--model_args` without importing torch or lmms-eval, which takes ten seconds."""

from lmms_steer.errors import UserError, unknown_name
from lmms_steer.extraction.first_use import check_vectors
from lmms_steer.harness.plugin import MODELS, engine_error, runs_in_engine, steered_names_on_disk
from lmms_steer.models import MODEL_ARGS
from lmms_steer.steering.intervention import FIELDS
from lmms_steer.steering.spec import SteeringSpec

STEERED_MODEL_ARGS = ("steering", *FIELDS, *MODEL_ARGS)
"""The arguments that the `--model_args` of our models may contain."""


def check_model_args(model: str, model_args: str) -> tuple[str | None, SteeringSpec]:
    """Read and check what can be read without lmms-eval.

    Args:
        model: of `--model`.
        model_args: of `--model_args`. If it has quotes or brackets, only lmms-eval's own parser can split it, and it is
            not checked.

    Returns:
        the checkpoint and the spec; None and the empty spec for arguments that are not checked.

    Raises:
        UserError: for a model that is not ours, an unknown argument, a spec that cannot be read, or a vector that
            neither exists nor can be extracted.
    """
    check_model(model)
    if set("\"'[]{}") & set(model_args):
        return None, SteeringSpec()
    args = dict(part.strip().split("=", 1) for part in model_args.split(",") if "=" in part)
    for name in args:
        if name not in STEERED_MODEL_ARGS:
            raise unknown_name("key", name, STEERED_MODEL_ARGS, "in --model_args")
    spec = SteeringSpec.from_args(args)
    if "pretrained" in args:
        check_vectors(spec, args["pretrained"])
    return args.get("pretrained"), spec


def check_model(model: str) -> None:
    """Check that `--model` names one of this package's own models.

    Raises:
        UserError: for another model; also for a steered wrapper of lmms-eval (`steered_qwen2_5_vl`).
    """
    if model in MODELS:
        return
    wrapper = model.replace(":", "_", 1)
    if wrapper not in steered_names_on_disk():
        raise unknown_name("model", model, MODELS)
    if runs_in_engine(wrapper):
        raise engine_error(wrapper.removeprefix("steered_"))
    raise UserError(
        f"{model} works in lmms-eval only; use --model steered_hf, which loads the same checkpoint if transformers can"
    )
