"""Compare systems with a baseline on the same questions: gain, 95% interval and p-value.

Which interval and test are used depends on the scores:

* right or wrong answers, every question with its own image: Tango's score interval and McNemar's mid-p
* graded scores, questions that share images, and averages over tasks: a t interval and sign flips
  (`lmms_steer.statistics.clustered`)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lmms_steer.errors import UserError
from lmms_steer.statistics import Floats, Ints
from lmms_steer.statistics.clustered import cluster_interval, cluster_sums, sign_flip_p


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """The comparison of one system with a baseline. Shares are between 0 and 1 (0.01 is a point).

    Attributes:
        n: questions.
        accuracy: the system's mean score.
        gain: the mean difference from the baseline.
        low: the lower end of its 95% interval.
        high: the upper end.
        fixed: questions that score better than with the baseline.
        broken: questions that score worse.
        p: the two-sided p-value of the gain.
    """

    n: int
    accuracy: float
    gain: float
    low: float
    high: float
    fixed: int
    broken: int
    p: float


@dataclass(frozen=True, slots=True)
class Effects:
    """The comparisons of several systems with a baseline; arrays have one entry a system.

    Attributes:
        gain: mean differences from the baseline.
        low: lower ends of the 95% intervals.
        high: upper ends.
        p: two-sided p-values.
        p_exact: McNemar's exact p for answers that are right or wrong and independent, else NaN.
        fixed: numbers of questions that score better than with the baseline.
        broken: numbers of questions that score worse.
        test: the name of the test behind `p`.
    """

    gain: Floats
    low: Floats
    high: Floats
    p: Floats
    p_exact: Floats
    fixed: Ints
    broken: Ints
    test: str


def compare_by_document(
    baseline: Mapping[str, float], system: Mapping[str, float], clusters: Ints | None = None, seed: int = 0
) -> PairedComparison:
    """Compare two runs whose scores are given by document.

    Args:
        baseline: document ▸ score.
        system: document ▸ score, of the same documents.
        clusters: the image of each of the baseline's documents, as 0, 1, …; None if each has its own.
        seed: of the sign flips.

    Raises:
        UserError: if the documents are not the same.
    """
    if baseline.keys() != system.keys():
        missing = len(baseline.keys() ^ system.keys())
        raise UserError(f"the runs were not made on the same questions: {missing} are in only one of them")
    before = np.array(list(baseline.values()), dtype=float)
    after = np.array([system[key] for key in baseline], dtype=float)
    return compare_scores(before, after, clusters, seed)


def compare_scores(before: Floats, after: Floats, clusters: Ints | None = None, seed: int = 0) -> PairedComparison:
    """Compare two arrays of scores.

    Args:
        before: the baseline's score of each question.
        after: the system's, in the same order.
        clusters: the image of each question, as 0, 1, …; None if each has its own.
        seed: of the sign flips.
    """
    effects = task_effects((after - before)[None], clusters, seed)
    return PairedComparison(
        n=len(before),
        accuracy=float(after.mean()),
        gain=float(effects.gain[0]),
        low=float(effects.low[0]),
        high=float(effects.high[0]),
        fixed=int(effects.fixed[0]),
        broken=int(effects.broken[0]),
        p=float(effects.p[0]),
    )


def task_effects(differences: Floats, clusters: Ints | None = None, seed: int = 0) -> Effects:
    """Compare several systems with a baseline on one task.

    Args:
        differences: systems x questions; the system's score minus the baseline's.
        clusters: the image of each question, as 0, 1, …; None if each has its own.
        seed: of the sign flips.
    """
    if clusters is None and np.isin(differences, (-1, 0, 1)).all():
        return _right_or_wrong_effects(differences)
    return average_effects([differences], clusters, seed)


def average_effects(parts: list[Floats], clusters: Ints | None = None, seed: int = 0) -> Effects:
    """Compare several systems with a baseline by the mean over tasks of the mean differences.

    Each task counts the same. The interval and the test are `cluster_interval` and `sign_flip_p`.

    Args:
        parts: systems x questions, one array a task.
        clusters: the image of each question, as 0, 1, …, of all tasks in turn; None if each has its own.
        seed: of the sign flips.
    """
    counts = [part.shape[1] for part in parts]
    differences = np.concatenate(parts, axis=1)
    means = np.concatenate([np.broadcast_to(part.mean(1, keepdims=True), part.shape) for part in parts], axis=1)
    weights = np.concatenate([np.full(n, 1 / (n * len(parts))) for n in counts])
    units = np.arange(len(weights)) if clusters is None else clusters
    rows = cluster_sums(differences, weights, units)
    # one more differing question a task, which differs by as much as the others do on average
    differing = (differences != 0).sum(1)
    square = np.where(differing > 0, (differences**2).sum(1) / np.maximum(differing, 1), 1.0)
    floor = square * sum((1 / (n * len(parts))) ** 2 for n in counts)
    (squares,) = cluster_sums(weights[None], weights, units)
    low, high = cluster_interval(rows, cluster_sums(means, weights, units), floor, squares)
    return Effects(
        # not the sum over units, whose rounding depends on which questions differ
        gain=np.mean([part.mean(1) for part in parts], axis=0),
        low=low,
        high=high,
        p=sign_flip_p(rows, seed),
        p_exact=np.full(len(rows), np.nan),
        fixed=(differences > 0).sum(1),
        broken=(differences < 0).sum(1),
        test="sign flips by image" if clusters is not None else "sign flips",
    )


def mcnemar_exact_p(fixed: ArrayLike, broken: ArrayLike) -> Floats:
    """Compute McNemar's exact two-sided p.

    It is conservative: without an effect it is below 0.05 in fewer than 5% of the cases.

    Args:
        fixed: questions that only the system answers right; a number, or an array with one entry a system.
        broken: questions that only the baseline answers right, likewise.
    """
    fixed, broken = np.asarray(fixed), np.asarray(broken)
    from scipy.stats import binom

    p: Floats = np.minimum(1.0, 2 * binom.cdf(np.minimum(fixed, broken), fixed + broken, 0.5))
    return p


def mcnemar_mid_p(fixed: ArrayLike, broken: ArrayLike) -> Floats:
    """Compute McNemar's mid-p.

    The observed outcome counts half, which brings the error rate to the nominal 5%. Fagerland, Lydersen and Laake,
    BMC Medical Research Methodology 13:91, 2013.

    Args:
        fixed: as for `mcnemar_exact_p`.
        broken: likewise.
    """
    fixed, broken = np.asarray(fixed), np.asarray(broken)
    from scipy.stats import binom

    observed = binom.pmf(np.minimum(fixed, broken), fixed + broken, 0.5)
    tails = 2 * binom.cdf(np.minimum(fixed, broken), fixed + broken, 0.5)
    # where as many are fixed as broken, both tails contain the middle, and every outcome is as extreme as the observed
    p: Floats = np.where(fixed == broken, 1.0, tails - observed)
    return p


def tango_interval(fixed: ArrayLike, broken: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
    """Compute Tango's 95% score interval for the difference of two paired shares.

    It has its nominal coverage with 100 questions of which few differ, and a width where none differs. Tango,
    Statistics in Medicine 17:891-908, 1998.

    Args:
        fixed: as for `mcnemar_exact_p`.
        broken: likewise.
        n: questions.

    Returns:
        The lower and upper ends, between -1 and 1.
    """
    fixed, broken, n = np.broadcast_arrays(*(np.asarray(x, dtype=float) for x in (fixed, broken, n)))
    gain = (fixed - broken) / n
    from scipy.optimize.elementwise import find_root
    from scipy.stats import norm

    z = norm.ppf(0.975)
    low = find_root(_score_excess, (-np.ones_like(gain), gain), args=(fixed, broken, n, z)).x
    high = find_root(_score_excess, (gain, np.ones_like(gain)), args=(fixed, broken, n, -z)).x
    return np.where(gain <= -1, -1.0, low), np.where(gain >= 1, 1.0, high)


def _score_excess(delta: Floats, fixed: Any, broken: Any, n: Any, z: Any) -> Floats:
    """By how much the score statistic for a true difference `delta` exceeds z."""
    linear = (2 * n - fixed + broken) * delta - fixed - broken
    rest = -broken * delta * (1 - delta)
    # the maximum likelihood share of broken answers if the true difference is delta
    share = (np.sqrt(np.maximum(linear**2 - 8 * n * rest, 0)) - linear) / (4 * n)
    spread = np.sqrt(np.maximum(n * (2 * share + delta * (1 - delta)), 1e-12))
    excess: Floats = (fixed - broken - n * delta) / spread - z
    return excess


def _right_or_wrong_effects(differences: Floats) -> Effects:
    fixed, broken = (differences > 0).sum(1), (differences < 0).sum(1)
    low, high = tango_interval(fixed, broken, differences.shape[1])
    return Effects(
        gain=differences.mean(1),
        low=low,
        high=high,
        p=mcnemar_mid_p(fixed, broken),
        p_exact=mcnemar_exact_p(fixed, broken),
        fixed=fixed,
        broken=broken,
        test="McNemar mid-p",
    )
