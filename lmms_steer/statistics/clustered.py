"""Differences that are no plain right-or-wrong: graded scores, questions that share an image, averages over tasks.

A difference is a row of *units*, which are independent of each other: one a question, or one an image whose questions'
differences are summed. Rows (pairs of systems) share their units.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.stats import norm, t

Floats = NDArray[np.float64]

FLIPS = 9_999
_MOST_UNITS = 10_000
"""With more, the flipped sums are normal to all digits that are printed, and are not drawn."""


def cluster_sums(differences: Floats, weights: Floats, cluster_ids: NDArray[np.int64]) -> Floats:
    """Weighted differences, summed by cluster.

    Args:
        differences: rows x questions.
        weights: one a question.
        clusters: one a question, 0 … clusters - 1.

    Returns:
        rows x clusters.
    """
    shape = (int(cluster_ids.max()) + 1, len(cluster_ids))
    sums: Floats = coo_array((weights, (cluster_ids, np.arange(len(cluster_ids)))), shape=shape) @ differences.T
    return sums.T


def cluster_ids(images: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The image of each question, 0 …, from whatever tells images apart; None where no two questions share one."""
    distinct, own = np.unique(images, return_inverse=True)
    return None if len(distinct) == len(images) else own


def sign_flip_p(rows: Floats, seed: int = 0, flips: int = FLIPS) -> Floats:
    """The sign-flip permutation test's two-sided p of each row's sum; ties count half, as in the mid-p.

    Args:
        rows: rows x units.
        seed: of the flips, which all rows share.
    """
    seen = np.abs(rows.sum(1))
    spread = np.sqrt((rows**2).sum(1))
    if rows.shape[1] > _MOST_UNITS:
        limit: Floats = 2 * norm.sf(seen / np.where(spread > 0, spread, 1))
        return limit
    rows = rows[:, np.any(rows != 0, axis=0)]
    slack = 1e-9 * np.maximum(spread, 1e-12)
    rng = np.random.default_rng(seed)
    more, ties = np.zeros(len(rows)), np.zeros(len(rows))
    for start in range(0, flips, 500):
        signs = rng.integers(0, 2, (min(500, flips - start), rows.shape[1])) * 2.0 - 1
        drawn = np.abs(signs @ rows.T)
        more += (drawn > seen + slack).sum(0)
        ties += (np.abs(drawn - seen) <= slack).sum(0)
    return np.where(spread > 0, (more + (ties + 1) / 2) / (flips + 1), 1.0)


def cluster_interval(rows: Floats, expected: Floats, floor: Floats | float) -> tuple[Floats, Floats]:
    """A 95% t interval of each row's sum, from how the units scatter (statsmodels' cluster-robust one, with a floor).

    Args:
        rows: rows x units.
        expected: rows x units, a unit's share of the sum if all questions of a task had the task's mean difference.
        floor: variance that one more question answered otherwise would add: without it, few differences would give too
            narrow an interval, and none an interval without width (Agresti and Min, Statistics in Medicine 24, 2005).
    """
    count = rows.shape[1]
    variance = ((rows - expected) ** 2).sum(1) * count / max(count - 1, 1) + floor
    reach = t.ppf(0.975, max(count - 1, 1)) * np.sqrt(variance)
    centre = rows.sum(1)
    return centre - reach, centre + reach
