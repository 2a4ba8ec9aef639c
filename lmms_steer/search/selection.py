"""Which cell to take, and what its gain is worth after so many were tried."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from lmms_steer.search.plan import Cell
from lmms_steer.statistics.clustered import cluster_ids, cluster_sums
from lmms_steer.statistics.paired import Ints

Floats = npt.NDArray[np.float64]
PERMUTATIONS = 2000
LEVEL = 0.05
"""A corrected p below it makes a winner."""


@dataclass(frozen=True, slots=True)
class ScoreGrid:
    """What the cells scored.

    Attributes:
        cells: what was tried.
        scores: float [cells, questions], of 0 to 1; nan where a cell was not asked.
        base: float [questions], unsteered.
        spent: the first so many questions have had a say in which cells were asked on.
        images: the image of each question; None where each has its own.
        unparsed: cell, None for the baseline ▸ 1 where no answer could be read, float [questions]; nan where unknown.
    """

    cells: Sequence[Cell]
    scores: Floats
    base: Floats
    spent: int = 0
    images: Ints | None = None
    unparsed: Mapping[Cell | None, Floats] = field(default_factory=dict)

    def of(self, vector: str) -> "ScoreGrid":
        """One vector's cells."""
        kept = [i for i, cell in enumerate(self.cells) if cell.vector == vector]
        return replace(self, cells=[self.cells[i] for i in kept], scores=self.scores[kept])

    def unparsed_by(self, cell: Cell | None) -> float:
        """The share of a cell's answers that could not be read; nan where nothing says so."""
        told = self.unparsed.get(cell)
        return float("nan") if told is None or np.isnan(told).all() else float(np.nanmean(told))

    @property
    def asked(self) -> npt.NDArray[np.int64]:
        """int [cells]: on how many questions."""
        counts: npt.NDArray[np.int64] = (~np.isnan(self.scores)).sum(1)
        return counts

    @property
    def gains(self) -> Floats:
        """float [cells]: mean difference from the baseline, each on its own questions."""
        gains: Floats = np.nanmean(self.scores - self.base, axis=1)
        return gains

    @property
    def finalists(self) -> list[int]:
        """The cells that were asked everything."""
        return [int(i) for i in np.flatnonzero(self.asked == self.scores.shape[1])]

    @property
    def unspent(self) -> Ints:
        """The places of the questions that had no say in which cells were asked on, nor had others of their image."""
        later = np.arange(self.spent, self.scores.shape[1])
        return later if self.images is None else later[~np.isin(self.images[later], self.images[: self.spent])]


def best_cell(grid: ScoreGrid) -> int:
    """The finalist of the highest accuracy; of equals the weakest (as in the paper), then the lowest layer."""
    return min(grid.finalists, key=lambda i: (-grid.gains[i], abs(grid.cells[i].alpha), grid.cells[i].layer, i))


def cautious_cell(grid: ScoreGrid) -> int:
    """The weakest finalist within one standard error of the best, the error being that of their paired difference.

    One that loses against the baseline is not taken, unless the best does.
    """
    leader, gains = best_cell(grid), grid.gains
    differences = grid.scores[leader] - grid.scores
    errors = standard_errors(differences, grid.images)
    least = min(0.0, gains[leader])
    near = [i for i in grid.finalists if differences[i].mean() <= errors[i] + 1e-9 and gains[i] >= least]
    return min(near, key=lambda i: (abs(grid.cells[i].alpha), -gains[i], grid.cells[i].layer, i))


def standard_errors(differences: Floats, images: Ints | None = None) -> Floats:
    """Of each row's mean, float [rows].

    Args:
        differences: float [rows, questions].
        images: the image of each question; None where each has its own. Then images scatter, not questions.
    """
    n = differences.shape[1]
    own = cluster_ids(images) if images is not None else None
    if own is None:
        errors: Floats = differences.std(1, ddof=1) / np.sqrt(n)
        return errors
    count = int(own.max()) + 1
    if count == 1:
        return np.full(len(differences), np.inf)
    rows = cluster_sums(differences - differences.mean(1, keepdims=True), np.full(n, 1 / n), own)
    scattered: Floats = np.sqrt((rows**2).sum(1) * count / (count - 1))
    return scattered


def corrected_p(grid: ScoreGrid, cell: int, seed: int = 0) -> float:
    """The chance of a gain as large as a finalist's, in any finalist, if none had an effect.

    Max-T by sign flips (Westfall and Young 1993): a question's differences from the baseline change their sign together
    in all cells, so that what the cells have in common is kept; where questions share an image, those of an image do.
    One-sided: towards a gain. Where cells were dropped on the way, only questions that dropped none are counted, and
    whose image did not: the finalists were chosen on the others.
    """
    finalists, unspent = grid.finalists, grid.unspent
    if not len(unspent):
        return 1.0  # every question has had its say: none is left to tell by
    differences = (grid.scores[finalists] - grid.base)[:, unspent]
    if grid.images is not None:
        own = np.unique(grid.images[unspent], return_inverse=True)[1]
        differences = cluster_sums(differences, np.ones(len(unspent)), own)
    squares = (differences**2).mean(1)
    observed = _t(differences.mean(1), squares, differences.shape[1])[finalists.index(cell)]
    generator = np.random.default_rng(seed)
    signs = generator.choice((-1.0, 1.0), size=(PERMUTATIONS, differences.shape[1]))
    largest = _t(signs @ differences.T / differences.shape[1], squares, differences.shape[1]).max(1)
    return float((1 + (largest >= observed - 1e-9).sum()) / (PERMUTATIONS + 1))


def _t(means: Floats, squares: Floats, n: int) -> Floats:
    spread = np.sqrt(np.maximum(squares - means**2, 1e-12) / n)
    t: Floats = np.where(squares > 0, means / spread, 0.0)
    return t
