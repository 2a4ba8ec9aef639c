"""Load a task of lm-eval by its name, and create its steered model outside of lm-eval's command line."""

from pathlib import Path
from typing import Any

import torch
import yaml
from lm_eval.tasks import TaskManager
from lm_eval.utils import simple_parse_args_string

from lmms_steer.errors import UserError, first_line, unknown_name
from lmms_steer.harness.lm_eval import SteeredHFLM
from lmms_steer.models.loading import no_model

FEWSHOT_SEED = 1234
"""lm-eval's default."""
OUTPUT_TYPES = ("multiple_choice", "loglikelihood", "generate_until")
"""The kinds of tasks whose questions have a score each."""


def load_lm_eval_task(
    task: str, include_path: Path | None = None, split: str | None = None, num_fewshot: int | None = None
) -> tuple[Any, str]:
    """A task object of lm-eval, and the name of the split that it evaluates.

    Args:
        task: its name.
        include_path: the user's own folder of tasks.
        split: evaluate this split instead of the task's own.
        num_fewshot: the number of examples in front of each question; None for the task's own.

    Raises:
        UserError: for a task that does not exist, is a group or tag, or whose questions have no score each.
    """
    manager = _manager(task, include_path)
    try:
        loaded = manager.load([task])["tasks"]
    except Exception as error:
        raise UserError(f"the questions of {task} cannot be loaded: {_cause(error)}") from error
    if list(loaded) != [task]:
        raise UserError(f"{task} is a group: search on one task")
    made: Any = loaded[task]
    _refuse(made, task)
    if split is not None:
        if split not in made.dataset:
            raise unknown_name("split", split, list(made.dataset), f"of {task}")
        made.set_config("test_split", split)
    if num_fewshot is not None:
        made.set_config("num_fewshot", num_fewshot)
    made.set_fewshot_seed(FEWSHOT_SEED)
    return made, str(made.config.test_split or made.config.validation_split)


def create_lm(model_args: str, batch_size: int) -> SteeredHFLM:
    """lm-eval's `hf` with steering, from `--model_args`; on a GPU if there is one, unless they name a device.

    Raises:
        UserError: for arguments that lm-eval or transformers refuse.
    """
    try:
        args: dict[str, Any] = simple_parse_args_string(model_args)
    except ValueError as error:
        raise UserError(
            f"cannot read --model_args {model_args!r}: expected key=value pairs separated by commas"
        ) from error
    if "pretrained" not in args:
        raise no_model()
    for key in ("mixed_precision_dtype", "think_end_token", "enable_thinking"):
        if args.get(key):
            raise UserError(f"{key}={args[key]}: a search cannot score answers as lm-eval does with this setting")
    args = {"device": "cuda" if torch.cuda.is_available() else "cpu", "batch_size": batch_size, **args}
    try:
        return SteeredHFLM(**args)
    except UserError:
        raise
    except (TypeError, ValueError, OSError, ImportError) as error:
        raise UserError(f"lm-eval cannot load {args['pretrained']}: {first_line(error)}") from error


def _manager(task: str, include_path: Path | None) -> TaskManager:
    """An index that has the task. That of the user's folder comes first: lm-eval's own tasks take long to index."""
    manager: TaskManager | None = None
    for defaults in (False, True):
        if not defaults and include_path is None:
            continue
        try:
            manager = TaskManager(include_path=include_path and str(include_path), include_defaults=defaults)
        except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
            raise UserError(f"lm-eval cannot read the tasks in {include_path}: {first_line(error)}") from error
        if task in manager.all_tasks:
            return manager
    assert manager is not None
    raise unknown_name("task", task, manager.all_tasks, "of lm-eval")


def _refuse(task: Any, name: str) -> None:
    kind = task.config.output_type
    if kind not in OUTPUT_TYPES:
        raise UserError(
            f"{name} is {kind}, whose questions have no score each: a search needs {', '.join(OUTPUT_TYPES)}"
        )
    if getattr(task, "UNSAFE_CODE", False):
        raise UserError(f"{name} runs code that the model writes: lmms-steer search does not run such tasks")
    if getattr(task, "MULTIMODAL", False):
        raise UserError(f"{name} shows images: search on it in lmms-eval, or on a text task")
    if kind == "generate_until" and (task.config.repeats or 1) > 1:
        raise UserError(f"{name} asks each question {task.config.repeats} times: lmms-steer search needs repeats: 1")


def _cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {first_line(error)}"
