"""Right-or-wrong answers of two systems to the same questions, by the questions on which they differ.

All functions take arrays (one entry a pair of systems) or single numbers.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize.elementwise import find_root
from scipy.stats import binom, norm

Floats = NDArray[np.float64]


def exact_p(fixed: ArrayLike, broken: ArrayLike) -> Floats:
    """McNemar's exact two-sided p. Conservative: without an effect it is below 0.05 in fewer than 5% of the cases."""
    fixed, broken = np.asarray(fixed), np.asarray(broken)
    p: Floats = np.minimum(1.0, 2 * binom.cdf(np.minimum(fixed, broken), fixed + broken, 0.5))
    return p


def mid_p(fixed: ArrayLike, broken: ArrayLike) -> Floats:
    """McNemar's mid-p: what was seen counts half, which brings the error rate to the 5% that it claims.

    Fagerland, Lydersen and Laake, BMC Medical Research Methodology 13:91, 2013.
    """
    fixed, broken = np.asarray(fixed), np.asarray(broken)
    seen = binom.pmf(np.minimum(fixed, broken), fixed + broken, 0.5)
    tails = 2 * binom.cdf(np.minimum(fixed, broken), fixed + broken, 0.5)
    # with as many fixed as broken both tails hold the middle, and everything is as extreme as what was seen
    p: Floats = np.where(fixed == broken, 1.0, tails - seen)
    return p


def score_interval(fixed: ArrayLike, broken: ArrayLike, n: ArrayLike) -> tuple[Floats, Floats]:
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
