"""What a difference between two systems on the same questions is worth."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap

from lmms_steer.errors import UserError


@dataclass(frozen=True, slots=True)
class Comparison:
    """`gain` and its 95% interval are shares (0.01 is a point); `p` is McNemar's, exact and two-sided."""

    n: int
    accuracy: float
    gain: float
    low: float
    high: float
    fixed: int
    broken: int
    p: float


def compare(baseline: Mapping[str, float], system: Mapping[str, float], seed: int = 0) -> Comparison:
    """Pair two runs' scores (0 or 1) by document.

    Args:
        baseline: document ▸ score.
        system: document ▸ score, of the same documents.
        seed: of the bootstrap over documents (percentile interval, 9,999 resamples).

    Raises:
        UserError: when the documents are not the same.
    """
    if baseline.keys() != system.keys():
        missing = len(baseline.keys() ^ system.keys())
        raise UserError(f"the runs were not made on the same questions: {missing} are in only one of them")
    keys = list(baseline)
    before, after = (np.array([scores[key] for key in keys]) for scores in (baseline, system))
    difference = after - before
    fixed, broken = int((difference > 0).sum()), int((difference < 0).sum())
    low = high = 0.0
    if fixed + broken:
        resampled = bootstrap((difference,), np.mean, method="percentile", batch=500, rng=np.random.default_rng(seed))
        low, high = map(float, resampled.confidence_interval)
    p = float(binomtest(fixed, fixed + broken).pvalue) if fixed + broken else 1.0
    return Comparison(len(keys), float(after.mean()), float(difference.mean()), low, high, fixed, broken, p)
