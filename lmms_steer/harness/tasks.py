"""Load a task of lmms-eval by its name."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lmms_steer.errors import UserError, first_line, unknown_name
from lmms_steer.harness.task_files import our_tasks, tasks_dir, tasks_in
from lmms_steer.harness.task_index import cache_task_index
from lmms_steer.scoring.rows import check_rows, reads_choices, reads_prompt


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
    from loguru import logger

    # a line about the file system for each task
    logger.disable("lmms_eval.caching")
    known = our_tasks() | (tasks_in(include_path) if include_path else {})
    folders = [tasks_dir(), *([str(include_path)] if include_path else [])]
    cache_task_index()
    # indexing lmms-eval's own tasks takes seconds
    try:
        manager = TaskManager(include_path=folders, include_defaults=task not in known, model_name=model)
    except (yaml.YAMLError, OSError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"lmms-eval cannot read the tasks in {include_path}: {first_line(error)}") from error
    if task not in manager.all_tasks:
        raise unknown_name("task", task, manager.all_tasks)
    try:
        loaded = manager.load_task_or_group([task], "simple")
        check_choices(loaded)
    except UserError:
        raise
    except Exception as error:
        raise loading_mistake(error) or cannot_be_loaded(task, error) from error
    if list(loaded) != [task]:
        raise UserError(f"{task} is a group: search on one task")
    config = loaded[task].config
    return loaded[task], str(config.test_split or config.validation_split)


def loading_mistake(error: BaseException) -> UserError | None:
    """The user error behind an error of loading a task, which lmms-eval's retries hide; None for any other error.

    A file that a task names and that its dataset does not have is one: the dataset has changed, or the name is wrong.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return cause
        missing = re.match(r"Unable to find '(hf://datasets/)?([^']+)'", str(cause))
        if isinstance(cause, FileNotFoundError) and missing and not missing[1]:
            return UserError(
                f"the task reads {missing[2]!r}, which does not exist: a relative path is looked for beside the task's"
                " YAML file, and then from this folder on"
            )
        if isinstance(cause, FileNotFoundError) and missing:
            return UserError(
                f"the task reads {missing[2]!r}, which does not exist: the dataset's files have changed, or the name in"
                " the task is wrong; a local copy (lmms-steer data import) does not depend on them"
            )
        cause = cause.__cause__ or cause.__context__
    return None


def cannot_be_loaded(task: str, error: BaseException) -> UserError:
    """The user error for a task whose questions cannot be loaded, with the cause below the retries of lmms-eval."""
    cause = _cause(error)
    # the benchmarks that ship can be read from this disk
    copies = "; see lmms-steer data import for local copies" if set(task.split(", ")) & set(our_tasks()) else ""
    return UserError(f"the questions of {task} cannot be loaded: {type(cause).__name__}: {first_line(cause)}{copies}")


def out_of_reach(error: BaseException) -> bool:
    """Whether a task cannot be loaded because of the network, the Hub or the disk, rather than because of its code."""
    return isinstance(_cause(error), OSError)


def refuse_examples(task: Any) -> None:
    """Refuse a task that asks for examples in its prompts: lmms-eval 0.7.3 gives them without their images.

    Raises:
        UserError: for such a task.
    """
    asked = getattr(task.config, "num_fewshot", None)
    if asked:
        name = getattr(task.config, "task", "a task")
        raise UserError(
            f"{name} asks for {asked} examples in each prompt, which lmms-eval gives without their images: set"
            " num_fewshot to 0 in its file"
        )


def check_choices(loaded: Mapping[Any, Any]) -> None:
    """Check the questions of the user's own tasks that use this package's scorers, before a model answers them.

    Args:
        loaded: name ▸ task, as lmms-eval loads tasks; groups are nested.

    Raises:
        UserError: for a row whose choices or answer are malformed, or a first row whose image cannot be read.
    """
    for name, task in loaded.items():
        if isinstance(task, Mapping):
            check_choices(task)
        # the data of our own tasks is checked when it is imported
        elif name not in our_tasks() and _reads_choices(task):
            check_rows(str(task.config.task), task.eval_docs_no_media, reads_prompt(task.config.doc_to_text))
            _check_first_image(task)


def _check_first_image(task: Any) -> None:
    """Check that a task finds the image of its first row; that of every row would take as long as an evaluation."""
    if task.config.doc_to_visual is None or not len(task.eval_docs):
        return
    try:
        task.doc_to_visual(task.eval_docs[0])
    except Exception as error:
        raise UserError(
            f"{task.config.task}, document 0: doc_to_visual failed: {type(error).__name__}: {first_line(error)}; an"
            " image is a column of images in the dataset, not of their paths"
        ) from error


def _reads_choices(task: Any) -> bool:
    config = getattr(task, "config", None)
    return config is not None and reads_choices(config.doc_to_target, config.process_results)


def _cause(error: BaseException) -> BaseException:
    """The original error, below those of lmms-eval's retries and of dataset builders."""
    attempt = getattr(error, "last_attempt", None)
    first: BaseException = (attempt.exception() if attempt else None) or error
    while first.__cause__ is not None:
        first = first.__cause__
    return first
