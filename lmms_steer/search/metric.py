"""Check the score that a search maximises, by a task's list of metrics."""

from collections.abc import Iterable, Mapping
from typing import Any

from lmms_steer.errors import UserError, unknown_name


def check_metric(metric: str, task: str, listed: Iterable[Mapping[str, Any]] | None) -> None:
    """Check that a task has a metric that a search can maximise.

    Args:
        metric: its name.
        task: the task's name.
        listed: the task's `metric_list`.

    Raises:
        UserError: for a metric that the task does not have, or that is better if it is smaller.
    """
    higher_is_better = {str(entry["metric"]): entry.get("higher_is_better", True) for entry in listed or ()}
    if metric not in higher_is_better:
        raise unknown_name(f"metric of {task}", metric, higher_is_better)
    if not higher_is_better[metric]:
        usable = ", ".join(name for name, higher in higher_is_better.items() if higher)
        raise UserError(f"{task}: a smaller {metric} is better: choose another metric ({usable})")
