"""Find the alpha at which a cell's damage reaches a budget, for every layer and token target at once.

The mean KL of a small alpha grows as its square, so the search for an alpha is a secant in log alpha and log KL, kept
inside a bracket. KL need not grow for ever, nor steadily: what is found is in the first place where it passes the
budget, as far as the alphas that were tried show it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from lmms_steer.search.plan import BUDGET_PROMPTS, Cell

TOLERANCE = 0.02
"""A mean KL within this share of its budget counts as the budget."""
START, SMALLEST, LARGEST = 2.0**-6, 2.0**-20, 2.0**12
"""The first alpha that is tried, which is weak so that a KL that falls again is met on its way up; and the bounds."""
STEPS = (1.5, 8.0)
"""The smallest and the largest factor between two alphas while a bracket is looked for."""
MAX_ROUNDS = 40
"""A bracket that is still open after so many rounds holds a jump of the KL."""
DIGITS = 6
"""Significant digits of an alpha, so that a spec writes exactly what was measured."""

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
            wanted = {_next_alpha(known, budget, rounds) for budget in budgets}
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


def _next_alpha(points: Mapping[float, float], budget: float, rounds: int) -> float | None:
    """The alpha to try next; None where the budget is met or cannot be."""
    low, high = _bracket(points, budget)
    if rounds >= MAX_ROUNDS or _is_met(points[_nearest(points, budget)], budget):
        return None
    if high is None:
        assert low is not None
        return None if low >= LARGEST else _rounded(min(LARGEST, low * _step(budget, points[low])))
    if low is None:
        return None if high <= SMALLEST else _rounded(max(SMALLEST, high / _step(points[high], budget)))
    share = 0.5
    # every third step halves the bracket, which a secant alone may not
    if rounds % 3 and points[low] > 0 and math.isfinite(points[high]):
        share = math.log(budget / points[low]) / math.log(points[high] / points[low])
        share = min(0.95, max(0.05, share))
    alpha = _rounded(low * (high / low) ** share)
    return None if alpha in points else alpha


def _bracket(points: Mapping[float, float], budget: float) -> tuple[float | None, float | None]:
    """The largest alpha before the KL first passes the budget, and the first after; None where there is none."""
    low = None
    for alpha in sorted(points):
        if points[alpha] >= budget:
            return low, alpha
        low = alpha
    return low, None


def _step(above: float, below: float) -> float:
    """The factor between two alphas whose KLs are `above` and `below` if KL is a square of alpha, within bounds."""
    factor = math.sqrt(above / below) if below > 0 and math.isfinite(above) else STEPS[1]
    return min(STEPS[1], max(STEPS[0], factor))


def _nearest(points: Mapping[float, float], budget: float) -> float:
    return min(points, key=lambda alpha: (abs(points[alpha] - budget), alpha))


def _is_met(kl: float, budget: float) -> bool:
    return abs(kl / budget - 1) <= TOLERANCE


def _rounded(alpha: float) -> float:
    return float(f"{alpha:.{DIGITS}g}")


def _resolution(place: Cell, points: Mapping[float, float], budget: float) -> Resolution:
    nearest = _nearest(points, budget)
    kl, (low, high) = points[nearest], _bracket(points, budget)
    found = replace(place, alpha=nearest)
    if _is_met(kl, budget):
        return Resolution(found, budget, kl)
    if high is None:
        largest = max(points.items())
        return Resolution(found, budget, kl, f"cannot be reached: KL {largest[1]:.3g} at alpha {largest[0]:g}")
    if low is None:
        return Resolution(found, budget, kl, f"is passed at the smallest alpha: KL {points[high]:.3g} at {high:g}")
    jump = f"KL jumps from {points[low]:.3g} at alpha {low:g} to {points[high]:.3g} at {high:g}"
    return Resolution(found, budget, kl, f"is met by no alpha: {jump}")
