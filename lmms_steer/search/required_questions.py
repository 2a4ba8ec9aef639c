"""How many questions a strategy needs that drops cells on the way, from the power of what it does.

Such a strategy may lose a gain twice: by dropping its cell, and by testing on fewer questions than a grid does. It is
used on so many questions that it still finds a gain of `SOUGHT_GAIN` with 80% probability. What is promised is compared
with simulated studies by `benchmarks/few_questions.py`.
"""

import math
from bisect import bisect_left
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np

from lmms_steer._util.formatting import count_noun, format_points
from lmms_steer.errors import UserError
from lmms_steer.search.chosen_strategy import ChosenStrategy
from lmms_steer.search.plan import Cell
from lmms_steer.search.strategies import Strategy, StrategyContext
from lmms_steer.statistics import Ints
from lmms_steer.statistics.power import POWER, STEPS, power

ASSUMED_DISCORDANT = 0.1
"""The share of answers that steering is assumed to change between right and wrong, before any was measured."""
SOUGHT_GAIN = 0.08
"""A strategy that drops cells must find this gain. It is about the paper's larger one; for smaller ones use a grid."""
_SOUGHT = format_points(100 * SOUGHT_GAIN)
MOST_QUESTIONS = 1 << 15
"""Numbers of questions beyond this are not told apart."""


def context_of(grid: tuple[int, int, int], n: int, image_of: Ints | None = None) -> StrategyContext:
    """A search of which little is known yet.

    Args:
        grid: how many layers, alphas and token targets there are.
        n: number of questions.
        image_of: the image of each question, numbered from 0; None where no two questions share one.
    """
    layers, alphas, tokens = map(range, grid)
    cells = [Cell("v", layer, float(alpha), str(target)) for layer, alpha, target in product(layers, alphas, tokens)]
    return StrategyContext(cells, n, image_of, vectors=("v",), layers=layers, tokens=tuple(map(str, tokens)))


def finding_probability(
    chosen: ChosenStrategy, context: StrategyContext, gain: float, discordant: float = ASSUMED_DISCORDANT
) -> float:
    """The probability that a search keeps a cell with a gain, and calls it a winner.

    Args:
        chosen: the strategy.
        context: the search. Where questions share images, images are counted.
        gain: as a share (0.01 is a point).
        discordant: the share of questions whose answer changes between right and wrong.
    """
    cells, n = tested(chosen, context)
    return _finds(chosen, context, gain, discordant, cells, n)


def _finds(
    chosen: ChosenStrategy, context: StrategyContext, gain: float, discordant: float, cells: int, n: int
) -> float:
    return chosen.keeps(context, gain, discordant) * power(gain, n, discordant, cells) if n else 0.0


def smallest_gain(chosen: ChosenStrategy, context: StrategyContext) -> float:
    """The smallest gain, as a share, that is found with 80% probability; NaN where no possible gain is."""
    cells, n = tested(chosen, context)

    def found(step: int) -> bool:
        return _finds(chosen, context, step / STEPS, ASSUMED_DISCORDANT, cells, n) >= POWER

    largest = round(ASSUMED_DISCORDANT * STEPS)
    step = bisect_left(range(largest + 1), True, lo=1, key=found)
    return step / STEPS if step <= largest else math.nan


def questions_needed(chosen: ChosenStrategy, context: StrategyContext, gain: float = SOUGHT_GAIN) -> float:
    """The number of questions on which a strategy finds a gain with 80% probability; infinite for more than 32,768.

    Args:
        chosen: the strategy.
        context: the search; its own number of questions does not count.
        gain: as a share.
    """

    def enough(n: int) -> bool:
        return finding_probability(chosen, replace(context, n=n, image_of=None), gain) >= POWER

    high = 64
    while not enough(high):
        if (high := 2 * high) > MOST_QUESTIONS:
            return math.inf
    return bisect_left(range(high), True, lo=high // 2 + 1, key=enough)


def check_questions(chosen: ChosenStrategy, context: StrategyContext, where: str) -> None:
    """Check that there are enough questions for a strategy.

    Args:
        chosen: the strategy.
        context: the search, with the number of its questions or an upper limit of it.
        where: what sets this number, for the message.

    Raises:
        UserError: for fewer than the strategy declares, or than it takes to find a gain of 8 points.
    """
    instead = "use the strategy grid (--strategy grid)"
    if context.n < chosen.min_questions:
        raise UserError(
            f"the strategy {chosen.name} needs at least {chosen.min_questions} questions, and {where} has {context.n}:"
            f" {instead}"
        )
    if not chosen.needs_power:
        return
    needed, cells = questions_needed(chosen, context), count_noun(_cells_of_a_vector(context), "cell")
    if context.n < needed:
        raise UserError(
            f"the strategy {chosen.name} needs at least {needed:.0f} questions for {cells}, and {where} has"
            f" {context.n}: on fewer it finds a gain of {_SOUGHT} points with less than 80% probability; {instead}"
        )
    if context.image_of is not None and (found := finding_probability(chosen, context, SOUGHT_GAIN)) < POWER:
        images = count_noun(len(np.unique(context.image_of)), "image")
        raise UserError(
            f"the strategy {chosen.name} finds a gain of {_SOUGHT} points with {found:.0%} probability among {cells} on"
            f" the {images} of {where}: {instead}"
        )


def required_questions_line(chosen: ChosenStrategy, context: StrategyContext) -> str:
    """How many questions a strategy needs that drops cells by their answers, for the user; "" for another one."""
    if not chosen.needs_power:
        return ""
    needed, cells = questions_needed(chosen, context), count_noun(_cells_of_a_vector(context), "cell")
    found = f"to find a gain of {_SOUGHT} points with 80% probability"
    return f"{chosen.name} needs {needed:.0f} questions for {cells}, {found}"


def tested(chosen: ChosenStrategy, context: StrategyContext) -> tuple[int, int]:
    """For how many cells of a vector a p-value is corrected, at most, and the number of questions, or of images."""
    context = chosen.after_filter(context)
    first = context.vectors[0]
    cells, spent = _cells_of_a_vector(context), 0
    if chosen.strategy.adaptive:
        cells = context.trials
    elif chosen.strategy.drops_targets:
        asked, spent = _asked_if_all_are_equal(chosen.strategy.build(context))
        cells = sum(count == context.n for cell, count in asked.items() if cell.vector == first)
    spent = max(spent, chosen.questions_spent(context.n))
    if context.image_of is None:
        return cells, context.n - spent
    return cells, len(np.setdiff1d(context.image_of[spent:], context.image_of[:spent]))


def _asked_if_all_are_equal(strategy: Strategy) -> tuple[Counter[Cell], int]:
    """On how many questions each cell is measured where a strategy drops as few as it ever does; questions spent."""
    asked, spent, rung = Counter[Cell](), 0, next(strategy, None)
    while rung is not None:
        questions = len(rung.questions)
        spent = max(spent, rung.questions.start)
        asked.update(dict.fromkeys(rung.cells, questions))
        try:
            rung = strategy.send((np.zeros((len(rung.cells), questions)), np.zeros(questions)))
        except StopIteration:
            break
    return asked, spent


def _cells_of_a_vector(context: StrategyContext) -> int:
    return sum(cell.vector == context.vectors[0] for cell in context.cells)
