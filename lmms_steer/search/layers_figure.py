"""The figure of `lmms-steer layers`: a panel for each score, over the layers."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.ticker import MaxNLocator

from lmms_steer.plots.lines import draw_curve
from lmms_steer.plots.style import BLUE, VERMILLION, figure_maker, figure_style, save_figure

COLUMNS = 3


@figure_style()
def draw_layers(found: Mapping[str, Mapping[int, float]], best: Mapping[str, int | None], path: Path) -> Path:
    """Draw the figure into a file, and return the file; arguments as for `layers_figure`."""
    return save_figure(layers_figure(found, best), path)


@figure_style()
def layers_figure(found: Mapping[str, Mapping[int, float]], best: Mapping[str, int | None]) -> Any:
    """Draw the scores as a `matplotlib.figure.Figure`.

    Args:
        found: score ▸ layer ▸ its value.
        best: score ▸ the layer to mark; None for none.
    """
    columns = min(COLUMNS, len(found))
    rows = math.ceil(len(found) / columns)
    size = (2.4 * columns + 0.4, 1.9 * rows + 0.3)
    figure, axes = figure_maker().subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(found) :]:
        axis.set_axis_off()
    for axis, (name, scores) in zip(axes.flat, found.items(), strict=False):
        layers = sorted(scores)
        draw_curve(axis, layers, [scores[layer] for layer in layers], BLUE)
        marked = best[name]
        if marked is not None:
            axis.plot(marked, scores[marked], "D", color=VERMILLION, markersize=6.5)
        axis.set(title=name if marked is None else f"{name}: best at {marked}", xlabel="layer")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
