"""Check lmms-eval's options for a run of one of our models, before the first question is asked."""

import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from lmms_steer.errors import UserError, unknown_name
from lmms_steer.harness.arguments import split_args
from lmms_steer.models.generation import KNOWN, TRANSFORMERS, check_given_settings
from lmms_steer.models.vlm import HfVlm


def check_run(lm: Any, task_dict: Mapping[Any, Any], cli_args: Any) -> None:
    """Check `--gen_kwargs` and `--limit` of a command, and the tasks' `generation_kwargs`.

    Args:
        lm: the model.
        task_dict: the loaded tasks and groups of tasks, as lmms-eval nests them.
        cli_args: the parsed command line; None if lmms-eval is used as a library.

    Raises:
        UserError: for a setting that is given several times, unknown, not supported, or without an effect, and for a
            limit of 0.
    """
    given = split_args(str(getattr(cli_args, "gen_kwargs", None) or ""), "--gen_kwargs")
    tasks = [task for task in _tasks(task_dict) if "generate_until" in task.config.output_type]
    if given and not tasks:
        raise UserError("--gen_kwargs has no effect: none of the tasks generates text")
    if getattr(cli_args, "limit", None) == 0:
        raise UserError("--limit 0 leaves no questions: leave it out for all of them")
    for task in tasks:
        settings = task.config.generation_kwargs or {}
        if isinstance(lm, HfVlm):
            check_given_settings(settings, given)
        else:
            _check_wrapper_settings(lm, given)


def _tasks(task_dict: Mapping[Any, Any]) -> Iterator[Any]:
    for task in task_dict.values():
        # a task with its group is a pair
        found = task[1] if isinstance(task, tuple) else task
        if isinstance(found, Mapping):
            yield from _tasks(found)
        elif found is not None:
            yield found


def _check_wrapper_settings(lm: Any, given: Mapping[str, str]) -> None:
    """Check the names only: each wrapper of lmms-eval reads the settings in its own way, and leaves some out."""
    modules = {parent.__module__ for parent in type(lm).__mro__ if parent.__module__.startswith("lmms_eval.models.")}
    sources = [inspect.getsource(sys.modules[name]) for name in modules]
    for name in given:
        if name in TRANSFORMERS or name in KNOWN or any(f"{q}{name}{q}" in text for text in sources for q in "'\""):
            continue
        raise unknown_name("key", name, {*KNOWN, *TRANSFORMERS}, "in --gen_kwargs")
