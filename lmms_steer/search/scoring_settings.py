"""How a task writes texts and scores them, so that a study is not continued with other settings."""

import hashlib
import inspect
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lmms_steer.harness.task_files import tasks_dir

_READING = ("filter_list", "reasoning_tags", "auto_strip_thinking")
"""What decides how a task reads a written answer; recorded only where the task sets it."""


def scoring_settings(config: Any, score: str, metric: str | None) -> str:
    """A task's settings for written texts and their score.

    Args:
        config: the task's.
        score: how the search scores answers.
        metric: the score that counts; None for the first in the task's list.

    Returns:
        JSON; "" where no texts are written.
    """
    if score != "generate":
        return ""
    reading = {name: getattr(config, name, None) for name in _READING}
    listed = [str(entry["metric"]) for entry in config.metric_list or ()]
    chosen = {
        "metric": metric or next(iter(listed), None),
        **{name: value for name, value in reading.items() if value},
        **(config.generation_kwargs or {}),
    }
    return json.dumps(chosen, sort_keys=True, default=_named)


def own_scores_sha256(config: Any, score: str) -> str | None:
    """Hash of the file in which a task of the user's own scores its answers.

    Args:
        config: the task's.
        score: how the search scores answers.

    Returns:
        None for a task of this package or of a harness, and where the task's function scores nothing.
    """
    function = getattr(config, "process_results", None)
    if score == "letters" or not callable(function):
        return None
    try:
        file = Path(inspect.getfile(function)).resolve()
        content = file.read_bytes()
    except (TypeError, OSError):
        return None
    specs = [find_spec(name) for name in ("lmms_steer", "lmms_eval", "lm_eval")]
    shipped = [Path(tasks_dir()), *(Path(spec.origin).parent for spec in specs if spec is not None and spec.origin)]
    if any(file.is_relative_to(folder.resolve()) for folder in shipped):
        return None
    return hashlib.sha256(content).hexdigest()


def _named(value: Any) -> str:
    """A function by its name, because its text holds an address that differs between runs."""
    return getattr(value, "__qualname__", None) or str(value)
