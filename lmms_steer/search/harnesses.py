"""Where a search's tasks and models come from: lmms-eval, or lm-eval for text models. Imports both only when used."""

from typing import Any

from lmms_steer._util.extras import missing_extra
from lmms_steer.errors import UserError
from lmms_steer.harness.arguments import SPEC_KEYS, check_model_args
from lmms_steer.search.options import SearchOptions
from lmms_steer.search.plan import LMMS_EVAL

UNSTEERED = (
    "--model_args of a search must name the unsteered model: give vector, layer, alpha and tokens as options, and other"
    " keys as --spec"
)


def check_arguments(options: SearchOptions) -> str | None:
    """Check model and arguments, as far as that is possible without the harness.

    Returns:
        the checkpoint; None if it is not given.

    Raises:
        UserError: for a model or an argument that the harness does not have, or steering keys among the arguments.
    """
    if options.harness == LMMS_EVAL:
        return check_model_args(options.model, options.model_args, UNSTEERED)[0]
    if options.model != "steered_hf":
        raise UserError(f"--model {options.model}: with --harness lm-eval only steered_hf can be searched")
    # its other arguments are those of lm-eval and of transformers, which check them
    args = dict(part.strip().split("=", 1) for part in options.model_args.split(",") if "=" in part)
    if any(key in args for key in SPEC_KEYS):
        raise UserError(UNSTEERED)
    return args.get("pretrained")


def load(options: SearchOptions, name: str, split: str | None = None) -> tuple[Any, str]:
    """A task by its name, and the split that its questions come from.

    Args:
        options: what to search.
        name: of the task to search on, or to confirm on.
        split: evaluate this split of a task of lm-eval instead of its own.

    Raises:
        UserError: for a task that does not exist or cannot be searched on.
    """
    if options.harness == LMMS_EVAL:
        from lmms_steer.harness import tasks

        return tasks.load_task(name, options.model, options.include_path)
    try:
        from lmms_steer.harness.lm_eval_tasks import load_lm_eval_task
        from lmms_steer.search.lm_eval_task import LmEvalTask
    except ImportError as error:
        raise missing_extra("lm-eval", "--harness lm-eval", ["lm_eval"]) from error

    task, used = load_lm_eval_task(name, options.include_path, split, options.num_fewshot)
    return LmEvalTask(task, options.metric), used


def create(options: SearchOptions) -> Any:
    """The unsteered model in its harness's wrapper.

    Raises:
        UserError: for wrong arguments, or a model that cannot be loaded.
    """
    if options.harness == LMMS_EVAL:
        from lmms_steer.harness.steered import create_model

        return create_model(options.model, options.model_args)
    from lmms_steer.harness.lm_eval_tasks import create_lm

    return create_lm(options.model_args, options.batch_size)
