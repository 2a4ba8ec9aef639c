"""The figures of the demo's page, as SVG text that a browser shows without a network."""

import numpy as np
from matplotlib.figure import Figure

from lmms_steer.demo.results import ColourCurve, SearchSummary
from lmms_steer.plots.heatmap import HeatMap, colour_limit, draw_heatmap
from lmms_steer.plots.lines import draw_band, draw_curve
from lmms_steer.plots.style import BLUE, GREY, VERMILLION, embedded_svg, figure_style

_LAYERS = (0, 1, 3)


@figure_style()
def draw_colour_curve(curve: ColourCurve) -> str:
    """Draw P(red) against alpha at three layers: red's vector, blue's, and the range of five random ones."""
    figure = Figure(figsize=(9.5, 3.1))
    axes = figure.subplots(1, len(_LAYERS), sharey=True)
    for axis, layer in zip(axes, _LAYERS, strict=True):
        values = np.array([curve.p_red[name][layer] for name in curve.random_vectors])
        draw_band(axis, curve.alphas, values.min(0), values.max(0), GREY)
        axis.plot(curve.alphas, values.max(0), color=GREY, linestyle=":", label="largest of 5 random vectors")
        draw_curve(axis, curve.alphas, curve.p_red["blue"][layer], VERMILLION, "s", label="blue's vector")
        draw_curve(axis, curve.alphas, curve.p_red["red"][layer], BLUE, label="red's vector")
        axis.set(title=f"layer {layer}", xlabel="alpha", ylim=(-0.03, 1.03))
    axes[0].set_ylabel("P(red)")
    axes[-1].legend(loc="upper left")
    return embedded_svg(figure, "curve")


@figure_style()
def draw_search(task: str, search: SearchSummary) -> str:
    """Draw the accuracy gained on the select split, in points: layer x alpha, one heat map a token target."""
    layers = tuple(sorted({cell.layer for cell in search.cells}))
    alphas = tuple(sorted({cell.alpha for cell in search.cells}))
    limit = colour_limit(100 * cell.gain for cell in search.cells)
    targets = list(dict.fromkeys(cell.tokens for cell in search.cells))
    best = search.best
    figure = Figure(figsize=(9.5, 2.4))
    for target, axis in zip(targets, figure.subplots(1, len(targets), sharey=True, squeeze=False)[0], strict=True):
        gains = {(cell.layer, cell.alpha): 100 * cell.gain for cell in search.cells if cell.tokens == target}
        chosen = (best.layer, best.alpha) if best.tokens == target else None
        draw_heatmap(axis, HeatMap(gains, layers, alphas, chosen), limit, numbers=True)
        axis.set_title(f"{target} tokens")
    figure.axes[0].set_ylabel("layer")
    return embedded_svg(figure, task)
