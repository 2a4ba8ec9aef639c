"""What differences between systems are worth, many systems at once: gain, interval, p."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmms_steer.statistics.binary import exact_p, mid_p, score_interval
from lmms_steer.statistics.flips import flipped_p, robust_interval, units

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Effects:
    """One entry a system. `p_exact` is McNemar's, where the answers are right or wrong and independent, else NaN."""

    gain: Floats
    low: Floats
    high: Floats
    p: Floats
    p_exact: Floats
    fixed: Ints
    broken: Ints
    test: str


def of_one_task(differences: Floats, clusters: Ints | None = None, seed: int = 0) -> Effects:
    """The mean difference on one task.

    Args:
        differences: systems x questions.
        clusters: the image of each question, 0 …; None where each has its own.
        seed: of the sign flips.
    """
    if clusters is None and np.isin(differences, (-1, 0, 1)).all():
        return _of_answers(differences)
    return of_tasks([differences], clusters, seed)


def of_tasks(parts: list[Floats], clusters: Ints | None = None, seed: int = 0) -> Effects:
    """The mean over tasks of the mean differences: each task counts the same.

    Args:
        parts: systems x questions, one a task.
        clusters: the image of each question of all tasks in turn; None where each has its own.
        seed: of the sign flips.
    """
    counts = [part.shape[1] for part in parts]
    differences = np.concatenate(parts, axis=1)
    means = np.concatenate([np.broadcast_to(part.mean(1, keepdims=True), part.shape) for part in parts], axis=1)
    weights = np.concatenate([np.full(n, 1 / (n * len(parts))) for n in counts])
    own = np.arange(len(weights)) if clusters is None else clusters
    rows = units(differences, weights, own)
    # one more question a task, answered otherwise by as much as the others are
    differing = (differences != 0).sum(1)
    square = np.where(differing > 0, (differences**2).sum(1) / np.maximum(differing, 1), 1.0)
    floor = square * sum((1 / (n * len(parts))) ** 2 for n in counts)
    low, high = robust_interval(rows, units(means, weights, own), floor)
    return Effects(
        rows.sum(1),
        low,
        high,
        flipped_p(rows, seed),
        np.full(len(rows), np.nan),
        (differences > 0).sum(1),
        (differences < 0).sum(1),
        "sign flips by image" if clusters is not None else "sign flips",
    )


def _of_answers(differences: Floats) -> Effects:
    fixed, broken = (differences > 0).sum(1), (differences < 0).sum(1)
    low, high = score_interval(fixed, broken, differences.shape[1])
    p, exact = mid_p(fixed, broken), exact_p(fixed, broken)
    return Effects(differences.mean(1), low, high, p, exact, fixed, broken, "McNemar mid-p")
