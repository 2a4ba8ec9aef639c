"""Which cell to take, and what its gain is worth after so many were tried."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmms_steer.search.plan import Cell

Hits = npt.NDArray[np.float64]
PERMUTATIONS = 2000


@dataclass(frozen=True, slots=True)
class Grid:
    """Every cell's answers.

    Attributes:
        cells: what was tried.
        hits: float [cells, questions], 1 where right.
        base: float [questions], unsteered.
    """

    cells: Sequence[Cell]
    hits: Hits
    base: Hits

    def of(self, vector: str) -> "Grid":
        """One vector's cells."""
        kept = [i for i, cell in enumerate(self.cells) if cell.vector == vector]
        return Grid([self.cells[i] for i in kept], self.hits[kept], self.base)

    @property
    def gains(self) -> npt.NDArray[np.float64]:
        """float [cells]: accuracy minus the baseline's."""
        gains: npt.NDArray[np.float64] = self.hits.mean(1) - self.base.mean()
        return gains


def best(grid: Grid) -> int:
    """The cell of the highest accuracy; of equals the weakest (as in the paper), then the lowest layer."""
    accuracy = grid.hits.mean(1)
    return min(range(len(grid.cells)), key=lambda i: (-accuracy[i], abs(grid.cells[i].alpha), grid.cells[i].layer, i))


def one_standard_error(grid: Grid) -> int:
    """The weakest cell within one standard error of the best, the error being that of their paired difference."""
    leader = best(grid)
    differences = grid.hits[leader] - grid.hits
    errors = differences.std(1, ddof=1) / np.sqrt(grid.hits.shape[1])
    near = [i for i in range(len(grid.cells)) if i == leader or differences[i].mean() <= errors[i] + 1e-9]
    accuracy = grid.hits.mean(1)
    return min(near, key=lambda i: (abs(grid.cells[i].alpha), -accuracy[i], grid.cells[i].layer, i))


def corrected_p(grid: Grid, cell: int, seed: int = 0) -> float:
    """The chance of a gain as large as the cell's, in any cell of the grid, if none had an effect.

    Max-T by sign flips (Westfall and Young 1993): a question's differences from the baseline change their sign together
    in all cells, so that what the cells have in common is kept. One-sided: towards a gain.
    """
    differences = grid.hits - grid.base
    observed = _t(differences.mean(1), differences)[cell]
    generator = np.random.default_rng(seed)
    signs = generator.choice((-1.0, 1.0), size=(PERMUTATIONS, differences.shape[1]))
    means = signs @ differences.T / differences.shape[1]
    squares = (differences**2).mean(1)
    spread = np.sqrt(np.maximum(squares - means**2, 1e-12) / differences.shape[1])
    largest = np.where(squares > 0, means / spread, 0.0).max(1)
    return float((1 + (largest >= observed - 1e-9).sum()) / (PERMUTATIONS + 1))


def _t(means: npt.NDArray[np.float64], differences: Hits) -> npt.NDArray[np.float64]:
    squares = (differences**2).mean(1)
    spread = np.sqrt(np.maximum(squares - means**2, 1e-12) / differences.shape[1])
    t: npt.NDArray[np.float64] = np.where(squares > 0, means / spread, 0.0)
    return t
