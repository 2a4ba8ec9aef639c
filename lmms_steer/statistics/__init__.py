"""Intervals and p-values for differences between paired scores, for leaderboards and searches."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
TIE = 1e-9
"""Gains that differ by less are equal: the same gain, summed over other questions, differs by rounding."""
