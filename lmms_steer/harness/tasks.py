"""Load a task of lmms-eval by its name."""

from pathlib import Path
from typing import Any

import yaml

from lmms_steer.errors import UserError, first_line, unknown_name
from lmms_steer.harness.task_files import our_tasks, tasks_dir, tasks_in


def load_task(task: str, model: str, include_path: Path | None = None) -> tuple[Any, str]:
    """A task object of lmms-eval, and the name of the split that it evaluates.

    Args:
        task: its name.
        model: as in `--model`; a task may have settings for some models.
        include_path: the user's own folder of tasks.

    Raises:
        UserError: for a task that does not exist, or a group.
    """
    from lmms_eval.tasks import TaskManager

    known = our_tasks() | (tasks_in(include_path) if include_path else {})
    folders = [tasks_dir(), *([str(include_path)] if include_path else [])]
    # indexing lmms-eval's own tasks takes seconds
    try:
        manager = TaskManager(include_path=folders, include_defaults=task not in known, model_name=model)
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"lmms-eval cannot read the tasks in {include_path}: {first_line(error)}") from error
    if task not in manager.all_tasks:
        raise unknown_name("task", task, manager.all_tasks)
    try:
        loaded = manager.load_task_or_group([task], "simple")
    except Exception as error:
        raise UserError(f"the questions of {task} cannot be loaded: {_cause(error)}") from error
    if list(loaded) != [task]:
        raise UserError(f"{task} is a group: search on one task")
    config = loaded[task].config
    return loaded[task], str(config.test_split or config.validation_split)


def _cause(error: Exception) -> str:
    """The original error, below those of lmms-eval's retries and of dataset builders."""
    attempt = getattr(error, "last_attempt", None)
    first: BaseException = (attempt.exception() if attempt else None) or error
    while first.__cause__ is not None:
        first = first.__cause__
    return f"{type(first).__name__}: {first_line(first)}"
