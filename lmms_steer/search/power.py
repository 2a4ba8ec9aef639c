"""What a search could find: said before it begins from an assumption, and afterwards from what was measured."""

import math
from collections.abc import Iterator

from lmms_steer._util.formatting import count_noun, format_points, format_share
from lmms_steer.search.chosen_strategy import ChosenStrategy
from lmms_steer.search.required_questions import (
    ASSUMED_DISCORDANT,
    questions_needed,
    required_questions_line,
    smallest_gain,
    tested,
)
from lmms_steer.search.results import VectorResult
from lmms_steer.search.strategies import StrategyContext
from lmms_steer.statistics.power import detectable_gain

EXPECTED_GAINS = (0.03, 0.07)
"""Gains of the size that the paper reports."""


def planned_power_lines(chosen: ChosenStrategy, context: StrategyContext) -> Iterator[str]:
    """Which gain a search could find, and a warning if that is more than can be expected.

    Args:
        chosen: the strategy.
        context: what it is built from.
    """
    if line := required_questions_line(chosen, context):
        yield line
    cells, n = tested(chosen, context)
    if not n:
        yield "WARNING: the strategy leaves no question to test a gain on: no gain can be found"
        return
    assumed = (
        f"assuming that steering changes {format_share(ASSUMED_DISCORDANT)} of the answers between right and wrong"
    )
    asked = count_noun(n, "question" if context.image_of is None else "image")
    on = f"{asked} and {count_noun(cells, 'cell')} of each vector"
    gain = smallest_gain(chosen, context)
    found = f"gains from {_points(gain)} points on are found in 80% of searches"
    if math.isnan(gain):
        found = "even a large gain is missed in more than 20% of searches"
    yield f"with {on}, {found} (p < 0.05 corrected for the cells, {assumed})"
    missed = [one for one in EXPECTED_GAINS if not gain <= one]
    if missed:
        sizes = " and ".join(_points(one) for one in missed)
        needed = " and ".join(f"{questions_needed(chosen, context, one):.0f}" for one in missed)
        what = "questions" if context.image_of is None else "images"
        yield f"WARNING: gains of {sizes} points, such as the paper's, need about {needed} {what}, or fewer cells"


def measured_power_line(vector: VectorResult, n_images: int | None) -> str:
    """Which gain a search without a winner could have found; "" where no answer changed or none was left to test on.

    Args:
        vector: what was found for a vector.
        n_images: number of images of all questions; None where no two questions share one.
    """
    n = min(vector.counted_on, n_images or vector.counted_on)
    if not vector.discordant or not n:
        return ""
    gain = detectable_gain(n, vector.discordant, vector.finalists)
    found = f"gains from {_points(gain)} points on are found in 80% of such searches"
    if math.isnan(gain):
        found = "even a large gain is missed in more than 20% of such searches"
    changed = f"its cells change {format_share(vector.discordant)} of the answers between right and wrong (median)"
    return f"{changed}: {found}"


def _points(gain: float) -> str:
    return format_points(100 * gain)
