"""Intervals and p-values for differences between paired scores, for leaderboards and searches."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
TIE = 1e-9
"""Gains that differ by less are equal: the same gain, summed over other questions, differs by rounding."""


def tied_ranks(values: Floats) -> Ints:
    """Rank values from the largest, which has rank 0; values that differ by less than `TIE` have the same rank."""
    order = np.argsort(-values)
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.cumsum(np.diff(-values[order], prepend=-values[order[:1]]) >= TIE)
    return ranks
