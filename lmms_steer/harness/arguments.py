"""Check `--model` and `--model_args` without importing torch or lmms-eval, which takes ten seconds."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from lmms_steer.errors import UserError, unknown_name
from lmms_steer.extraction.first_use import check_vectors
from lmms_steer.harness.plugin import MODELS, engine_error, runs_in_engine, steered_names_on_disk
from lmms_steer.models import MODEL_ARGS
from lmms_steer.steering.intervention import FIELDS
from lmms_steer.steering.spec import SteeringSpec

STEERED_MODEL_ARGS = ("steering", *FIELDS, *MODEL_ARGS)
"""The arguments that the `--model_args` of our models may contain."""
SPELLING_CUTOFF = 0.75
"""An unknown argument that is as similar to a known one (difflib's ratio) is a misspelling of it: `vecter` and `vector`
have 0.83, `aplha` and `alpha` 0.8; `max_length`, which wrappers of lmms-eval read undeclared, has at most 0.6."""


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
    check_keys(args, STEERED_MODEL_ARGS)
    spec = SteeringSpec.from_args(args)
    if "pretrained" in args:
        check_vectors(spec, args["pretrained"])
    return args.get("pretrained"), spec


def check_keys(given: Iterable[str], known: Collection[str], takes_others: bool = False) -> None:
    """Check the names of arguments, so that a misspelled one is neither ignored nor blamed on another one.

    Args:
        given: the names in `--model_args`.
        known: the names that the model declares, the keys of a spec included.
        takes_others: whether the model also takes arguments that it does not declare. Of those, only a misspelling of a
            known one is refused.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    for name in given:
        if name in known or (takes_others and not get_close_matches(name, known, n=1, cutoff=SPELLING_CUTOFF)):
            continue
        raise unknown_name("key", name, known, "in --model_args")


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
