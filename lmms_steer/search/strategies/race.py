"""Race: few questions for all cells, more for the better ones, all for a few finalists (successive halving).

Jamieson and Talwalkar 2016, with paired differences: a cell is dropped when it is not among the best of its vector, or
when the 95% interval of its difference from the leader lies below 0. The last questions had no part in choosing the
finalists; the p-value is computed on them (`selection.corrected_p`).
"""

import numpy as np

from lmms_steer.search.plan import Cell
from lmms_steer.search.selection import standard_errors
from lmms_steer.search.strategies import Rung, Strategy, StrategyContext, register_strategy
from lmms_steer.statistics import Floats, Ints, tied_ranks
from lmms_steer.statistics.power import stays

RUNG_ENDS = (1 / 12, 1 / 6, 1 / 3, 1.0)
"""The share of the questions that has been asked at the end of each rung."""
SURVIVING_SHARE = 1 / 4
"""The share of a vector's cells that goes on to the next rung."""
MIN_FINALISTS = 4
"""At least this many cells of a vector go on, except those whose difference from the leader is clearly below 0."""
MIN_GROWTH = 1.5
"""Cells are dropped again only after this many times as many questions. A second cut after hardly any new answers loses
gains, and saves little: 102 questions after 100 would leave a sixteenth of the cells."""
MIN_FIRST_RUNG = 100
"""The first rung has at least this many questions. A gain of 8 points is then among the better quarter of the cells
with 97% probability (`lmms_steer.statistics.power.stays`). With 20, a race over 450 lost one such gain in eight."""


def planned_answers(search: StrategyContext) -> int:
    """The largest number of answers that a race asks for, one cell and one question each."""
    total, stops = 0, rung_ends(search.n)
    for vector in {cell.vector for cell in search.cells}:
        alive = sum(cell.vector == vector for cell in search.cells)
        for first, end in zip([0, *stops[:-1]], stops, strict=True):
            total += alive * (end - first)
            alive = _survivors(alive)
    return total


def summary(search: StrategyContext) -> str:
    """The line that is printed when a race begins."""
    return f"{len(search.cells)} cells, racing over {search.n} questions"


def keeps(search: StrategyContext, gain: float, discordant: float) -> float:
    """The probability that a cell with a gain is a finalist: 1 less what each rung may lose.

    Args:
        search: the cells that are raced, and the number of questions. Where questions share images, images are counted.
        gain: as a share of the questions.
        discordant: the share of questions whose answer changes between right and wrong.
    """
    first = sum(cell.vector == search.vectors[0] for cell in search.cells)
    alive, lost = first, 0.0
    for end in rung_ends(search.n)[:-1]:
        compared = end if search.image_of is None else len(np.unique(search.image_of[:end]))
        after = _survivors(alive)
        if after < alive:
            lost += 1 - stays(gain, compared, discordant, after / first)
        alive = after
    return max(0.0, 1 - lost)


@register_strategy(
    "race",
    description="all cells on few questions, then more questions for the better cells only",
    planned_answers=planned_answers,
    summary=summary,
    keeps=keeps,
    needs_power=True,
    drops_targets=True,
)
def race(search: StrategyContext) -> Strategy:
    """Race the cells of each vector against each other; every vector has a race of its own."""
    stops = rung_ends(search.n)
    alive = list(search.cells)
    scores_of: dict[Cell, Floats] = {cell: np.zeros(0) for cell in alive}
    for first, end in zip([0, *stops[:-1]], stops, strict=True):
        scores, _ = yield Rung(alive, range(first, end))
        scores_of = {cell: np.concatenate((scores_of[cell], row)) for cell, row in zip(alive, scores, strict=True)}
        if end < search.n:
            image_of = None if search.image_of is None else search.image_of[:end]
            vectors = dict.fromkeys(cell.vector for cell in alive)
            alive = [cell for vector in vectors for cell in _best_of(vector, scores_of, image_of)]


def rung_ends(n: int) -> list[int]:
    """After how many of `n` questions each rung ends."""
    first, *later = (min(n, max(MIN_FIRST_RUNG, round(share * n))) for share in RUNG_ENDS)
    ends = [first]
    for end in later:
        if end >= MIN_GROWTH * ends[-1] or end == n > ends[-1]:
            ends.append(end)
    return ends


def _survivors(alive: int) -> int:
    return min(alive, max(MIN_FINALISTS, round(SURVIVING_SHARE * alive)))


def _best_of(vector: str, scores_of: dict[Cell, Floats], image_of: Ints | None) -> list[Cell]:
    own = [cell for cell in scores_of if cell.vector == vector]
    scores = np.array([scores_of[cell] for cell in own])
    ranks = tied_ranks(scores.mean(1))
    order = sorted(range(len(own)), key=lambda place: (ranks[place], abs(own[place].alpha), own[place]))
    best = order[: _survivors(len(order))]
    below = _below(scores[best] - scores[order[0]], image_of)
    return [own[place] for place, is_below in zip(best, below, strict=True) if not is_below]


def _below(differences: Floats, image_of: Ints | None) -> list[bool]:
    """Whether the 95% interval of each row's mean lies below 0."""
    limit = 1.96
    if image_of is not None:
        # a rung may cover few images: too few for the normal limit
        from scipy.stats import t

        limit = float(t.ppf(0.975, max(1, len(np.unique(image_of)) - 1)))
    below: list[bool] = (differences.mean(1) + limit * standard_errors(differences, image_of) < 0).tolist()
    return below
