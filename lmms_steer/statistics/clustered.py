"""Statistics of paired differences that are not plain right or wrong answers, or not independent.

They are for graded scores, questions that share an image, and averages over tasks. A difference between two systems is
a row of *units* that are independent of each other: one a question, or one an image, whose questions' differences are
summed. Rows (pairs of systems) share their units.
"""

import numpy as np

from lmms_steer.statistics import Floats, Ints

FLIPS = 9_999
"""The number of random sign flips of `sign_flip_p`."""
_MAX_UNITS = 10_000
"""With more units, the flipped sums are normal to all printed digits, and flips are not drawn."""
_FLIPS_AT_ONCE = 500


def cluster_ids(images: Ints) -> Ints | None:
    """Number the images of questions.

    Args:
        images: one value a question; equal for questions that share an image.

    Returns:
        The image of each question, as 0, 1, …; None if no two questions share one.
    """
    distinct, numbers = np.unique(images, return_inverse=True)
    return None if len(distinct) == len(images) else numbers


def cluster_sums(differences: Floats, weights: Floats, clusters: Ints) -> Floats:
    """Sum weighted differences by cluster.

    Args:
        differences: rows x questions.
        weights: one a question.
        clusters: the cluster of each question, as 0, 1, ….

    Returns:
        rows x clusters.
    """
    shape = (int(clusters.max()) + 1, len(clusters))
    from scipy.sparse import coo_array

    sums: Floats = coo_array((weights, (clusters, np.arange(len(clusters)))), shape=shape) @ differences.T
    return sums.T


def sign_flip_p(rows: Floats, seed: int = 0, flips: int = FLIPS) -> Floats:
    """Compute the two-sided p of each row's sum by the sign-flip permutation test.

    Flipped sums that equal the observed one count half, as in the mid-p. With more than 10,000 units that
    are not zero, the p is the normal limit's.

    Args:
        rows: rows x units.
        seed: of the flips, which all rows share.
        flips: how many to draw.

    Returns:
        One p a row; 1 where all rows have a single unit, which says nothing of what another would.
    """
    if rows.shape[1] < 2:
        return np.ones(len(rows))
    observed = np.abs(rows.sum(1))
    spread = np.sqrt((rows**2).sum(1))
    rows = rows[:, np.any(rows != 0, axis=0)]
    if rows.shape[1] > _MAX_UNITS:
        from scipy.stats import norm

        limit: Floats = 2 * norm.sf(observed / np.where(spread > 0, spread, 1))
        return limit
    tolerance = 1e-9 * np.maximum(spread, 1e-12)
    rng = np.random.default_rng(seed)
    larger, equal = np.zeros(len(rows)), np.zeros(len(rows))
    for start in range(0, flips, _FLIPS_AT_ONCE):
        signs = rng.integers(0, 2, (min(_FLIPS_AT_ONCE, flips - start), rows.shape[1])) * 2.0 - 1
        flipped = np.abs(signs @ rows.T)
        larger += (flipped > observed + tolerance).sum(0)
        equal += (np.abs(flipped - observed) <= tolerance).sum(0)
    # the observed sum itself is one of the flips, and equal
    return np.where(spread > 0, (larger + (equal + 1) / 2) / (flips + 1), 1.0)


def cluster_interval(rows: Floats, expected: Floats, floor: Floats | float, squares: Floats) -> tuple[Floats, Floats]:
    """Compute a 95% t interval of each row's sum from the variance between units.

    Where all units weigh the same it is statsmodels' cluster-robust interval, with a floor added to the variance. Where
    a few units hold much of the weight, their effective number takes the place of the number of units: the interval
    would be too narrow by the many that hold little (Carter, Schnepel and Steigerwald, Review of Economics and
    Statistics 99, 2017).

    Args:
        rows: rows x units.
        expected: rows x units; a unit's share of the sum if all questions of a task had the task's mean difference.
        floor: the variance that one more differing question would add. Without it the interval would be too narrow
            where few questions differ, and have no width where none does (Agresti and Min, Statistics in Medicine 24,
            2005).
        squares: the sum of the squared weights of each unit's questions: a unit's share of the variance if questions
            were independent.

    Returns:
        The lower and upper ends, one a row; infinite for a single unit, whose variance is unknown.
    """
    if rows.shape[1] < 2:
        return np.full(len(rows), -np.inf), np.full(len(rows), np.inf)
    degrees = max(float(squares.sum() ** 2 / (squares**2).sum()) - 1, 1.0)
    variance = ((rows - expected) ** 2).sum(1) * (degrees + 1) / degrees + floor
    from scipy.stats import t

    reach = t.ppf(0.975, degrees) * np.sqrt(variance)
    centre = rows.sum(1)
    return centre - reach, centre + reach
