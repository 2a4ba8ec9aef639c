"""Layer score from gradients: how many more answers would be right if margins were straight lines in alpha?"""

import numpy as np

from lmms_steer.search.layer_scores import GRADIENT_PASSES, LayerContext, register_layer_score
from lmms_steer.search.plan import Cell
from lmms_steer.statistics import Floats


@register_layer_score(
    "slope", description="share of answers gained, for the best alpha, along the margins' slopes", needs="answers",
    passes=lambda _: GRADIENT_PASSES,
)  # fmt: skip
def slope(context: LayerContext) -> dict[int, float]:
    """What the strategy `screen` decides by, for any alpha above 0 (`lmms_steer.search.margins`)."""
    from lmms_steer.models.batches import ShrinkingRunner
    from lmms_steer.search.margins import margin_slopes

    cells = [Cell("v", layer, 1.0, context.tokens) for layer in context.layers]
    runner = ShrinkingRunner()

    def run(batch: list[int]) -> list[list[float]]:
        asked = [context.questions[i] for i in batch]
        margin, slopes = margin_slopes(context.lm, {"v": context.vectors}, cells, context.task, asked)
        columns = [margin, *(slopes["v", layer, context.tokens] for layer in context.layers)]
        return [[float(value) for value in row] for row in zip(*columns, strict=True)]

    rows: list[list[float]] = []
    for first in range(0, len(context.questions), context.batch_size):
        rows += runner.run(list(range(len(context.questions)))[first : first + context.batch_size], run)
    margins, *slopes = np.array(rows).T
    return {layer: best_gain(margins, line) for layer, line in zip(context.layers, slopes, strict=True)}


def best_gain(margins: Floats, slopes: Floats) -> float:
    """The largest share of answers that some alpha ≥ 0 gains if `margin + alpha * slope` decides.

    Args:
        margins: of the right answers at alpha 0, float [questions].
        slopes: in alpha, float [questions].
    """
    crosses = np.sign(margins) * np.sign(slopes) < 0
    if not crosses.any():
        return 0.0
    crossings = -margins[crosses] / slopes[crosses]
    order = np.argsort(crossings)
    gained = np.cumsum(np.where(margins[crosses][order] < 0, 1, -1))
    # answers that change at one alpha change together
    last_of_alpha = np.append(np.diff(crossings[order]) > 0, True)
    return float(max(0, gained[last_of_alpha].max()) / len(margins))
