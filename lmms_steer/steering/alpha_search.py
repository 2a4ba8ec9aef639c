"""Find the alpha whose damage is a budget: a secant in log alpha and log KL, kept inside a bracket.

The mean KL of a small alpha grows as its square. It need not grow for ever, nor steadily: what is found is in the first
place where it passes the budget, as far as the alphas that were tried show it.
"""

import math
from collections.abc import Mapping

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


def next_alpha(points: Mapping[float, float], budget: float, rounds: int) -> float | None:
    """The alpha to try next; None where the budget is met or cannot be."""
    low, high = _bracket(points, budget)
    if rounds >= MAX_ROUNDS or is_met(points[nearest(points, budget)], budget):
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


def nearest(points: Mapping[float, float], budget: float) -> float:
    return min(points, key=lambda alpha: (abs(points[alpha] - budget), alpha))


def is_met(kl: float, budget: float) -> bool:
    return abs(kl / budget - 1) <= TOLERANCE


def _rounded(alpha: float) -> float:
    return float(f"{alpha:.{DIGITS}g}")


def why_not_met(points: Mapping[float, float], budget: float) -> str:
    """Why no alpha that was tried meets a budget; "" where one does.

    Args:
        points: alpha ▸ mean KL in nats.
        budget: in nats.
    """
    low, high = _bracket(points, budget)
    if is_met(points[nearest(points, budget)], budget):
        return ""
    if high is None:
        largest = max(points.items())
        return f"cannot be reached: KL {largest[1]:.3g} at alpha {largest[0]:g}"
    if low is None:
        return f"is passed at the smallest alpha: KL {points[high]:.3g} at {high:g}"
    return f"is met by no alpha: KL jumps from {points[low]:.3g} at alpha {low:g} to {points[high]:.3g} at {high:g}"
