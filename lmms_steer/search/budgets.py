"""Find the alpha at which a cell's damage reaches a budget, for every layer and token target at once.

The alphas are those of `lmms_steer.steering.alpha_search`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lmms_steer.search.plan import BUDGET_PROMPTS, Cell
from lmms_steer.steering.alpha_search import START, nearest, next_alpha, why_not_met

Measure = Callable[[int, Sequence[Cell]], Sequence[float]]
"""(number of the round, cells) ▸ the mean KL of each."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What was found for one layer, token target and budget.

    Attributes:
        cell: with the alpha that was found, or the last that was tried.
        budget: in nats.
        kl: the cell's mean KL.
        failure: why no alpha was found; empty if one was.
    """

    cell: Cell
    budget: float
    kl: float
    failure: str = ""


def resolve_budgets(places: Sequence[Cell], budgets: Sequence[float], measure: Measure) -> list[Resolution]:
    """Resolve every budget at every place.

    Args:
        places: vectors, layers and token targets; their alphas are not used.
        budgets: mean KLs in nats, above 0.
        measure: measures cells; called with the cells of all places whose budgets are open.

    Returns:
        a resolution for each place and budget, places first.
    """
    points: dict[Cell, dict[float, float]] = {replace(place, alpha=START): {} for place in places}
    open_alphas = {place: {START} for place in points}
    rounds = 0
    while any(open_alphas.values()):
        cells = [replace(place, alpha=alpha) for place, alphas in open_alphas.items() for alpha in sorted(alphas)]
        for cell, kl in zip(cells, measure(rounds, cells), strict=True):
            points[replace(cell, alpha=START)][cell.alpha] = kl
        rounds += 1
        for place, known in points.items():
            wanted = {next_alpha(known, budget, rounds) for budget in budgets}
            open_alphas[place] = {alpha for alpha in wanted if alpha is not None}
    return [_resolution(place, known, budget) for place, known in points.items() for budget in budgets]


def planned_answers(cells: Iterable[Cell], budgets: Sequence[float], questions: int) -> int:
    """About how many answers it takes to resolve budgets, one alpha and one prompt each.

    It is counted as if KL grew as the square of alpha. Where it does not, more alphas are tried.

    Args:
        cells: those to resolve; their alphas do not count.
        budgets: in nats.
        questions: of the study.
    """
    tried: list[Cell] = []

    def square(_: int, asked: Sequence[Cell]) -> list[float]:
        tried.extend(asked)
        return [cell.alpha**2 for cell in asked]

    resolve_budgets(list({replace(cell, alpha=0.0): None for cell in cells}), budgets, square)
    return len(tried) * min(questions, BUDGET_PROMPTS)


def _resolution(place: Cell, points: Mapping[float, float], budget: float) -> Resolution:
    alpha = nearest(points, budget)
    return Resolution(replace(place, alpha=alpha), budget, points[alpha], why_not_met(points, budget))
