"""Race: few questions for all cells, more for the better ones, all for a few (successive halving).

Jamieson and Talwalkar 2016, with paired differences: a cell leaves when it is not among the best of its vector, or when
the 95% interval of its difference from the leader is below 0. What the last questions say of the finalists has chosen
none of them, and that is where a p-value comes from (`selection.corrected_p`).
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import t

from lmms_steer.search.plan import Cell
from lmms_steer.search.selection import Floats, standard_errors
from lmms_steer.search.strategies import Rung, Strategy
from lmms_steer.statistics.paired import Ints

UP_TO = (1 / 12, 1 / 6, 1 / 3, 1.0)
"""The share of the questions that is asked at the end of each rung."""
KEPT = 1 / 4
"""Of a vector's cells, from rung to rung."""
FINALISTS = 4
FIRST = 20
"""Fewer questions than this cannot order cells."""


def race(cells: Sequence[Cell], n: int, images: Ints | None = None) -> Strategy:
    """
    Args:
        cells: of one or more vectors; each vector's race is its own.
        n: questions, in an order drawn by lot.
        images: the image of each question; None where each has its own.
    """
    stops = rung_ends(n)
    alive = list(cells)
    seen: dict[Cell, Floats] = {cell: np.zeros(0) for cell in alive}
    for first, end in zip([0, *stops[:-1]], stops, strict=True):
        scores, _ = yield Rung(alive, range(first, end))
        seen = {cell: np.concatenate((seen[cell], row)) for cell, row in zip(alive, scores, strict=True)}
        if end < n:
            shown = None if images is None else images[:end]
            vectors = dict.fromkeys(cell.vector for cell in alive)
            alive = [cell for vector in vectors for cell in _best_of(vector, seen, shown)]


def planned_answers(cells: Sequence[Cell], n: int) -> int:
    """Answers that a race asks for at most, a cell and a question each."""
    total = 0
    for vector in {cell.vector for cell in cells}:
        alive = sum(cell.vector == vector for cell in cells)
        for first, end in zip([0, *rung_ends(n)[:-1]], rung_ends(n), strict=True):
            total += alive * (end - first)
            alive = _survivors(alive)
    return total


def rung_ends(n: int) -> list[int]:
    """After how many of `n` questions each rung ends."""
    return sorted({min(n, max(FIRST, round(share * n))) for share in UP_TO})


def _survivors(alive: int) -> int:
    return min(alive, max(FINALISTS, round(KEPT * alive)))


def _best_of(vector: str, seen: dict[Cell, Floats], images: Ints | None) -> list[Cell]:
    own = {cell: row for cell, row in seen.items() if cell.vector == vector}
    order = sorted(own, key=lambda cell: (-own[cell].mean(), abs(cell.alpha), cell))
    leader = own[order[0]]
    return [cell for cell in order[: _survivors(len(order))] if not _below(own[cell] - leader, images)]


def _below(difference: Floats, images: Ints | None) -> bool:
    # a rung's images may be few: too few for the normal limit
    reach = 1.96 if images is None else float(t.ppf(0.975, max(1, len(np.unique(images)) - 1)))
    return bool(difference.mean() + reach * standard_errors(difference[None], images)[0] < 0)
