"""The rungs of a search: some cells on some questions, in the order in which a strategy asks for them."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lmms_steer.search.plan import Cell
from lmms_steer.search.selection import ScoreGrid
from lmms_steer.statistics import Floats, Ints


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of a strategy.

    Attributes:
        cells: the cells to measure.
        questions: the questions to measure them on, as places in the study's order.
    """

    cells: Sequence[Cell]
    questions: range


Strategy = Generator[Rung, tuple[Floats, Floats], None]
"""Yields rungs; is sent their scores [cells, questions] and the unsteered scores [questions]."""


def run_strategy(
    strategy: Strategy,
    n: int,
    measure: Callable[[int, Rung], tuple[Floats, Floats]],
    after_rung: Callable[[ScoreGrid], None] | None = None,
    image_of: Ints | None = None,
) -> ScoreGrid:
    """Run a strategy to its end.

    Args:
        strategy: the generator.
        n: number of questions.
        measure: (number of the rung, rung) ▸ its scores, as the generator is sent them.
        after_rung: called with all scores so far after each rung.
        image_of: the image of each question, numbered from 0; None where no two questions share one.

    Returns:
        the scores of all cells that were measured; NaN where a cell was not measured on a question.
    """
    rows: dict[Cell, Floats] = {}
    base = np.full(n, np.nan)
    grid = ScoreGrid([], np.empty((0, n)), base, image_of=image_of)
    number, spent, rung = 0, 0, next(strategy, None)
    while rung is not None:
        spent = max(spent, rung.questions.start)
        scores, unsteered = measure(number, rung)
        for cell, row in zip(rung.cells, scores, strict=True):
            rows.setdefault(cell, np.full(n, np.nan))[rung.questions] = row
        base[rung.questions] = unsteered
        grid = ScoreGrid(list(rows), np.array(list(rows.values())), base, spent, image_of)
        if after_rung is not None:
            after_rung(grid)
        try:
            number, rung = number + 1, strategy.send((scores, unsteered))
        except StopIteration:
            rung = None
    return replace(grid, spent=max(spent, _questions_of_dropped(grid)))


def _questions_of_dropped(grid: ScoreGrid) -> int:
    """How many of the first questions the cells were measured on that are not measured on all.

    A strategy that measures the cells it keeps from the first question on again has chosen them by those questions,
    too, though no later rung begins after them.
    """
    measured = ~np.isnan(np.delete(grid.scores, grid.finalists, axis=0))
    return int(np.flatnonzero(measured.any(0)).max(initial=-1)) + 1
