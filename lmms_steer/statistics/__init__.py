"""Intervals and p-values for differences between paired scores, for leaderboards and searches."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
