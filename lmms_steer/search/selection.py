"""Choose a cell, and compute a p-value for its gain that accounts for all the cells that were tried."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from lmms_steer.search.plan import Cell
from lmms_steer.statistics import TIE, Floats, Ints, tied_ranks
from lmms_steer.statistics.clustered import cluster_ids, cluster_sums

PERMUTATIONS = 2000
LEVEL = 0.05
"""The best cell is a winner if its corrected p-value is below this."""


@dataclass(frozen=True, slots=True)
class ScoreGrid:
    """The scores of all cells.

    Attributes:
        cells: the cells that were tried.
        scores: float [cells, questions], from 0 to 1; NaN where a cell was not measured on a question.
        base: scores of the unsteered model, float [questions].
        spent: how many of the first questions decided which cells were measured on the others.
        image_of: the image of each question, numbered from 0; None where no two questions share one.
        unparsed: for each cell, and for None (the unsteered model), 1 where no answer could be read, float [questions];
            NaN where that is unknown.
        kl: for each cell, KL(unsteered || steered) in nats at the token that decides, float [questions]; NaN where it
            is unknown.
    """

    cells: Sequence[Cell]
    scores: Floats
    base: Floats
    spent: int = 0
    image_of: Ints | None = None
    unparsed: Mapping[Cell | None, Floats] = field(default_factory=dict)
    kl: Mapping[Cell, Floats] = field(default_factory=dict)

    def of(self, vector: str) -> "ScoreGrid":
        """The cells of one vector."""
        rows = [i for i, cell in enumerate(self.cells) if cell.vector == vector]
        return replace(self, cells=[self.cells[i] for i in rows], scores=self.scores[rows])

    def of_target(self, tokens: str) -> "ScoreGrid":
        """The cells of one token target."""
        rows = [i for i, cell in enumerate(self.cells) if cell.tokens == tokens]
        return replace(self, cells=[self.cells[i] for i in rows], scores=self.scores[rows])

    def unparsed_by(self, cell: Cell | None) -> float:
        """The share of a cell's answers (None: the unsteered model's) that could not be read; NaN where unknown."""
        unparsed = self.unparsed.get(cell)
        return float("nan") if unparsed is None or np.isnan(unparsed).all() else float(np.nanmean(unparsed))

    def mean_kl(self, index: int) -> float:
        """A cell's mean KL(unsteered || steered) over the questions that it was measured on; NaN where unknown.

        Args:
            index: place of the cell. A mean over a part of its questions would be another number, so one question
                without a value makes it unknown.
        """
        kl = self.kl.get(self.cells[index])
        return float("nan") if kl is None else float(kl[~np.isnan(self.scores[index])].mean())

    def changed(self, index: int) -> tuple[int, int]:
        """How many questions' scores rose and fell in a cell: wrong answers mended, right answers broken."""
        differences = self.scores[index] - self.base
        return int((differences > 0).sum()), int((differences < 0).sum())

    @property
    def question_counts(self) -> npt.NDArray[np.int64]:
        """On how many questions each cell was measured, int [cells]."""
        counts: npt.NDArray[np.int64] = (~np.isnan(self.scores)).sum(1)
        return counts

    @property
    def gains(self) -> Floats:
        """Mean difference of each cell from the baseline on the questions it was measured on, float [cells]."""
        gains: Floats = np.nanmean(self.scores - self.base, axis=1)
        return gains

    @property
    def finalists(self) -> list[int]:
        """Places of the cells that were measured on all questions."""
        return [int(i) for i in np.flatnonzero(self.question_counts == self.scores.shape[1])]

    @property
    def unspent(self) -> Ints:
        """Places of the questions that had no part in dropping cells, and whose image had none either."""
        later = np.arange(self.spent, self.scores.shape[1])
        return later if self.image_of is None else later[~np.isin(self.image_of[later], self.image_of[: self.spent])]


def best_index(grid: ScoreGrid) -> int:
    """Place of the finalist with the highest accuracy.

    Among equals it is the one with the smallest |alpha|, as in the paper, then the one of the lowest layer.
    """
    ranks = tied_ranks(grid.gains)
    return min(grid.finalists, key=lambda i: (ranks[i], abs(grid.cells[i].alpha), grid.cells[i].layer, i))


def cautious_index(grid: ScoreGrid) -> int:
    """Place of the finalist with the smallest |alpha| within one standard error of the best.

    The standard error is that of the paired difference of the two. A cell that loses against the baseline is not
    chosen, unless the best does too.
    """
    leader, gains = best_index(grid), grid.gains
    ranks = tied_ranks(gains)
    differences = grid.scores[leader] - grid.scores
    errors = standard_errors(differences, grid.image_of)
    least = -TIE if gains[leader] >= -TIE else -np.inf
    near = [i for i in grid.finalists if differences[i].mean() <= errors[i] + TIE and gains[i] >= least]
    return min(near, key=lambda i: (abs(grid.cells[i].alpha), ranks[i], grid.cells[i].layer, i))


def standard_errors(differences: Floats, image_of: Ints | None = None) -> Floats:
    """Standard error of each row's mean, float [rows]; infinite where all questions are one, or of one image.

    Args:
        differences: float [rows, questions].
        image_of: the image of each question, for errors clustered by image; None where no two questions share one.
    """
    n = differences.shape[1]
    own = cluster_ids(image_of) if image_of is not None else None
    count = n if own is None else int(own.max()) + 1
    if count == 1:
        return np.full(len(differences), np.inf)
    if own is None:
        errors: Floats = differences.std(1, ddof=1) / np.sqrt(n)
        return errors
    rows = cluster_sums(differences - differences.mean(1, keepdims=True), np.full(n, 1 / n), own)
    clustered: Floats = np.sqrt((rows**2).sum(1) * count / (count - 1))
    return clustered


def corrected_p(grid: ScoreGrid, index: int, seed: int = 0) -> float:
    """Probability of a gain as large as a finalist's in any finalist if none had an effect.

    Max-T by sign flips (Westfall and Young 1993): the differences of one question from the baseline change their sign
    together in all cells, which keeps what the cells have in common; where questions share an image, those of one image
    do. One-sided, towards a gain. If cells were dropped on the way, only the questions that did not drop any are used:
    the finalists were chosen on the others.

    Args:
        grid: the scores of one vector's cells.
        index: place of a finalist.
        seed: seed of the sign flips.
    """
    finalists, unspent = grid.finalists, grid.unspent
    if not len(unspent):
        return 1.0  # every question had a part in choosing the finalists: none is left to test on
    differences = (grid.scores[finalists] - grid.base)[:, unspent]
    if grid.image_of is not None:
        own = np.unique(grid.image_of[unspent], return_inverse=True)[1]
        differences = cluster_sums(differences, np.ones(len(unspent)), own)
    if differences.shape[1] < 2:
        return 1.0  # a single question or image says nothing of another
    squares = (differences**2).mean(1)
    observed = _t(differences.mean(1), squares, differences.shape[1])[finalists.index(index)]
    generator = np.random.default_rng(seed)
    signs = generator.choice((-1.0, 1.0), size=(PERMUTATIONS, differences.shape[1]))
    largest = _t(signs @ differences.T / differences.shape[1], squares, differences.shape[1]).max(1)
    return float((1 + (largest >= observed - 1e-9).sum()) / (PERMUTATIONS + 1))


def _t(means: Floats, squares: Floats, n: int) -> Floats:
    spread = np.sqrt(np.maximum(squares - means**2, 1e-12) / n)
    t: Floats = np.where(squares > 0, means / spread, 0.0)
    return t
