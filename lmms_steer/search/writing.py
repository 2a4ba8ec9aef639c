"""How a task writes texts and scores them, so that a study is not continued with other settings."""

import json
from typing import Any

_READING = ("filter_list", "reasoning_tags", "auto_strip_thinking")
"""What decides how a task reads a written answer; recorded only where the task sets it."""


def writing_of(config: Any, score: str, metric: str | None) -> str:
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


def _named(value: Any) -> str:
    """A function by its name, because its text holds an address that differs between runs."""
    return getattr(value, "__qualname__", None) or str(value)
