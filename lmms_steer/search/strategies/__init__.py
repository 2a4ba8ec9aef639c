"""What a strategy asks for: rung by rung, some cells on some questions. What it sees of one decides the next.

A strategy is a generator of rungs that is sent each rung's scores. It knows nothing else and draws nothing by chance
that its seed does not fix, so that whoever runs it on the same scores asks for the same rungs: that is how processes
share a study, and how a killed one goes on.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np

from lmms_steer.search.plan import Cell
from lmms_steer.search.selection import Floats, ScoreGrid
from lmms_steer.statistics.paired import Ints


@dataclass(frozen=True, slots=True)
class Rung:
    """
    Attributes:
        cells: what is tried.
        questions: on which, by their places in the study's order.
    """

    cells: Sequence[Cell]
    questions: range


Strategy = Generator[Rung, tuple[Floats, Floats], None]
"""Yields rungs, is sent (scores [cells, questions], unsteered scores [questions])."""


def full_grid(cells: Sequence[Cell], n: int) -> Strategy:
    """Every cell on every question."""
    yield Rung(cells, range(n))


def run_strategy(
    strategy: Strategy,
    n: int,
    measure: Callable[[int, Rung], tuple[Floats, Floats]],
    seen: Callable[[ScoreGrid], None] | None = None,
    images: Ints | None = None,
) -> ScoreGrid:
    """Run a strategy to its end.

    Args:
        strategy: see there.
        n: questions.
        measure: (number of the rung, rung) ▸ its scores.
        seen: is called with what there is after each rung.
        images: the image of each question; None where each has its own.

    Returns:
        all cells that were tried; nan where a cell was not asked a question.
    """
    rows: dict[Cell, Floats] = {}
    base = np.full(n, np.nan)
    number, rung, spent = 0, next(strategy), 0
    while True:
        spent = max(spent, rung.questions.start)
        scores, unsteered = measure(number, rung)
        for cell, row in zip(rung.cells, scores, strict=True):
            rows.setdefault(cell, np.full(n, np.nan))[rung.questions] = row
        base[rung.questions] = unsteered
        grid = ScoreGrid(list(rows), np.array(list(rows.values())), base, spent, images)
        if seen is not None:
            seen(grid)
        try:
            number, rung = number + 1, strategy.send((scores, unsteered))
        except StopIteration:
            return grid
