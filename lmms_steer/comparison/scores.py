"""Which entry of a logged sample is its score: harnesses and tasks have many names for it."""

import math
from collections.abc import Sequence
from typing import Any


def candidates(task: str, results: dict[str, Any], sample: dict[str, Any], wanted: str | None) -> list[str]:
    """Names under which a task's samples may hold their score, the likeliest first.

    Args:
        task: its name.
        results: the results file.
        sample: the task's first.
        wanted: the user's choice; then there is no other.
    """
    if wanted:
        return [wanted]
    config = results.get("configs", {}).get(task, {})
    listed = [metric.get("metric") for metric in config.get("metric_list") or () if isinstance(metric, dict)]
    # lmms-eval's own paired test looks at `score_key`, then at what ends in _score
    scores = [key for key in sample if key.endswith("_score")]
    names = [config.get("score_key"), "score", *(sample.get("metrics") or ()), *listed, *scores]
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def score_of(sample: dict[str, Any], names: Sequence[str]) -> tuple[str, float]:
    """The first of the names that the sample has a number under, and the number; NaN where there is none."""
    for name in names:
        value = sample.get(name)
        # stock tasks log what they aggregate later: {"question_id": …, "score": 1.0}
        if isinstance(value, dict):
            value = value.get("score")
        try:
            return name, float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
    return "", math.nan


def better(task: str, results: dict[str, Any], metric: str) -> int:
    """1 where a higher score is better, else -1.

    The harness says it of the task's metrics; what a sample holds under another name goes their way if they all agree.
    """
    said = results.get("higher_is_better", {}).get(task) or {}
    directions = {said[metric]} if metric in said else set(said.values())
    return -1 if directions == {False} else 1
