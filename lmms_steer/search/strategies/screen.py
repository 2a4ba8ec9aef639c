"""Screen: drop the layers and targets that gradients give little hope for, then search the rest.

One forward and backward pass over the first questions estimates how every layer and target would move the margin of
the correct answer (`lmms_steer.search.margins`). Where a straight line along that slope would turn wrong answers into
correct ones, a cell may gain. The third of the layers and targets with the most of that is kept.
"""

from collections.abc import Sequence

import numpy as np

from lmms_steer.search.plan import Cell
from lmms_steer.search.stored_numbers import stored_numbers
from lmms_steer.search.strategies import FilterContext, Rung, Strategy, StrategyContext, register_strategy
from lmms_steer.search.strategies.race import rung_ends
from lmms_steer.statistics.power import stays

KEPT_SHARE = 1 / 3
"""The share of a vector's pairs of layer and target that is kept."""


def screened_questions(n: int) -> int:
    """How many of the first of `n` questions the screen looks at: those of a race's first rung."""
    return rung_ends(n)[0]


def screen_cells(context: FilterContext) -> list[Cell]:
    """The cells that the screen keeps. The study's folder stores what it is based on, in `screen.json`."""

    def shares() -> list[float]:
        from lmms_steer.search.margins import predicted_shares

        first = context.questions[: screened_questions(len(context.questions))]
        return predicted_shares(context.lm, context.vectors, context.cells, first, context.batch_size, context.task)

    return promising(context.cells, stored_numbers(context.folder / "screen.json", len(context.cells), shares))


def promising(cells: Sequence[Cell], shares: Sequence[float]) -> list[Cell]:
    """The cells of the third of each vector's layers and targets where some alpha promises most.

    Args:
        cells: the grid.
        shares: for each cell, the predicted share of correct answers.
    """
    kept: set[tuple[str, int, str]] = set()
    for vector in dict.fromkeys(cell.vector for cell in cells):
        best: dict[tuple[str, int, str], float] = {}
        for cell, share in zip(cells, shares, strict=True):
            if cell.vector == vector:
                pair = (vector, cell.layer, cell.tokens)
                best[pair] = max(share, best.get(pair, 0.0))
        order = sorted(best, key=lambda pair: (-best[pair], pair))
        kept |= set(order[: max(1, round(KEPT_SHARE * len(order)))])
    return [cell for cell in cells if (cell.vector, cell.layer, cell.tokens) in kept]


def keeps_place(search: StrategyContext, gain: float, discordant: float) -> float:
    """The probability that the layer and target of a cell with a gain are kept, if gradients predict every answer.

    Args:
        search: the grid. Where questions share images, images are counted.
        gain, discordant: as for `lmms_steer.search.strategies.race.keeps`.
    """
    asked = screened_questions(search.n)
    places = len({(cell.layer, cell.tokens) for cell in search.cells if cell.vector == search.vectors[0]})
    compared = asked if search.image_of is None else len(np.unique(search.image_of[:asked]))
    return stays(gain, compared, discordant, max(1, round(KEPT_SHARE * places)) / places)


@register_strategy(
    "screen",
    description="drop two thirds of the layers and targets by gradients, then every remaining cell on every question",
    filter=screen_cells,
    questions_spent=screened_questions,
    needs_answer_set=True,
    filter_keeps=keeps_place,
    needs_power=True,
    drops_targets=True,
    # the number does not depend on the shares
    kept_cells=lambda cells: promising(cells, [0.0] * len(cells)),
)
def screen(search: StrategyContext) -> Strategy:
    """Every remaining cell on every question."""
    yield Rung(search.cells, range(search.n))
