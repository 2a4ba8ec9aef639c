"""Right-or-wrong answers of two systems to the same questions, by the questions on which they differ.

All functions take arrays (one entry a pair of systems) or single numbers.

What differences between systems are worth, many systems at once: gain, interval, p.

What a difference between two systems on the same questions is worth.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import ArrayLike, NDArray
from scipy.optimize.elementwise import find_root
from scipy.stats import binom, norm

from lmms_steer.errors import UserError
from lmms_steer.statistics.clustered import cluster_interval, cluster_sums, sign_flip_p

Floats = NDArray[np.float64]


def mcnemar_exact_p(fixed: ArrayLike, broken: ArrayLike) -> Floats:
    """McNemar's exact two-sided p. Conservative: without an effect it is below 0.05 in fewer than 5% of the cases."""
    fixed, broken = np.asarray(fixed), np.asarray(broken)
    p: Floats = np.minimum(1.0, 2 * binom.cdf(np.minimum(fixed, broken), fixed + broken, 0.5))
    return p


def mcnemar_mid_p(fixed: ArrayLike, broken: ArrayLike) -> Floats:
    """McNemar's mid-p: what was seen counts half, which brings the error rate to the 5% that it claims.

    Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91, 2013.
    """
    fixed, broken = np.asarray(fixed), np.asarray(broken)
    seen = binom.pmf(np.minimum(fixed, broken), fixed + broken, 0.5)
    tails = 2 * binom.cdf(np.minimum(fixed, broken), fixed + broken, 0.5)
    # with as many fixed as broken both tails hold the middle, and everything is as extreme as what was seen
    p: Floats = np.where(fixed == broken, 1.0, tails - seen)
    return p


def tango_interval(fixed: ArrayLike, broken: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    """Tango's 95% score interval for the difference of two paired shares.

    It covers what it claims at 100 questions of which few differ, and has a width where none differs.
    Tango, Statistics in Medicine 17:891-908, 1998.
    """
    fixed, broken, n = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (fixed, broken, n)))
    gain = (fixed - broken) / n
    z = norm.ppf(0.975)
    low = find_root(_beyond, (-np.ones_like(gain), gain), args=(fixed, broken, n, z)).x
    high = find_root(_beyond, (gain, np.ones_like(gain)), args=(fixed, broken, n, -z)).x
    return np.where(gain <= -1, -1.0, low), np.where(gain >= 1, 1.0, high)


def _beyond(delta: Floats, fixed: Any, broken: Any, n: Any, z: Any) -> Floats:
    """How far the score statistic for a true difference `delta` is above z."""
    linear = (2 * n - fixed + broken) * delta - fixed - broken
    rest = -broken * delta * (1 - delta)
    # the likeliest share of broken answers if the true difference is delta
    share = (np.sqrt(np.maximum(linear**2 - 8 * n * rest, 0)) - linear) / (4 * n)
    spread = np.sqrt(np.maximum(n * (2 * share + delta * (1 - delta)), 1e-12))
    beyond: Floats = (fixed - broken - n * delta) / spread - z
    return beyond


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


def task_effects(differences: Floats, clusters: Ints | None = None, seed: int = 0) -> Effects:
    """The mean difference on one task.

    Args:
        differences: systems x questions.
        clusters: the image of each question, 0 …; None where each has its own.
        seed: of the sign flips.
    """
    if clusters is None and np.isin(differences, (-1, 0, 1)).all():
        return _of_answers(differences)
    return average_effects([differences], clusters, seed)


def average_effects(parts: list[Floats], clusters: Ints | None = None, seed: int = 0) -> Effects:
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
    rows = cluster_sums(differences, weights, own)
    # one more question a task, answered otherwise by as much as the others are
    differing = (differences != 0).sum(1)
    square = np.where(differing > 0, (differences**2).sum(1) / np.maximum(differing, 1), 1.0)
    floor = square * sum((1 / (n * len(parts))) ** 2 for n in counts)
    low, high = cluster_interval(rows, cluster_sums(means, weights, own), floor)
    return Effects(
        rows.sum(1),
        low,
        high,
        sign_flip_p(rows, seed),
        np.full(len(rows), np.nan),
        (differences > 0).sum(1),
        (differences < 0).sum(1),
        "sign flips by image" if clusters is not None else "sign flips",
    )


def _of_answers(differences: Floats) -> Effects:
    fixed, broken = (differences > 0).sum(1), (differences < 0).sum(1)
    low, high = tango_interval(fixed, broken, differences.shape[1])
    p, exact = mcnemar_mid_p(fixed, broken), mcnemar_exact_p(fixed, broken)
    return Effects(differences.mean(1), low, high, p, exact, fixed, broken, "McNemar mid-p")


paired_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """`gain` and its 95% interval are shares (0.01 is a point).

    The interval is Tango's score interval and `p` McNemar's mid-p (binary.py says why), for graded scores and for
    questions that share images a t interval and sign flips.
    """

    n: int
    accuracy: float
    gain: float
    low: float
    high: float
    fixed: int
    broken: int
    p: float


def compare_by_document(
    baseline: Mapping[str, float], system: Mapping[str, float], clusters: Ints | None = None, seed: int = 0
) -> PairedComparison:
    """Pair two runs' scores by document.

    Args:
        baseline: document ▸ score.
        system: document ▸ score, of the same documents.
        clusters: the image of each of the baseline's documents, 0 …; None where each has its own.
        seed: of the sign flips.

    Raises:
        UserError: when the documents are not the same.
    """
    if baseline.keys() != system.keys():
        missing = len(baseline.keys() ^ system.keys())
        raise UserError(f"the runs were not made on the same questions: {missing} are in only one of them")
    before = np.array(list(baseline.values()), dtype=float)
    after = np.array([system[key] for key in baseline], dtype=float)
    return compare_scores(before, after, clusters, seed)


def compare_scores(
    before: paired_Floats, after: paired_Floats, clusters: Ints | None = None, seed: int = 0
) -> PairedComparison:
    """As `compare`, of scores in one order, float [questions]."""
    found = task_effects((after - before)[None], clusters, seed)
    gain, low, high, p = (float(x[0]) for x in (found.gain, found.low, found.high, found.p))
    return PairedComparison(
        len(before), float(after.mean()), gain, low, high, int(found.fixed[0]), int(found.broken[0]), p
    )
