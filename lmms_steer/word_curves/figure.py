"""The figure of `lmms-steer curve`: P(word) against alpha, a panel for each layer."""

import math
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from lmms_steer._util.formatting import format_vector_name
from lmms_steer.plots.lines import draw_band, draw_curve
from lmms_steer.plots.style import (
    BLUE,
    GREEN,
    GREY,
    PURPLE,
    VERMILLION,
    figure_maker,
    figure_style,
    literal_text,
    save_figure,
    wrapped_name,
)
from lmms_steer.plots.ticks import legend_columns
from lmms_steer.word_curves.measure import WordCurve

COLUMNS = 4
_OTHERS = (VERMILLION, GREEN, PURPLE)
_MARKERS = "sD^vPX<>ph*8"
"""Colours and markers of the vectors of other words, in turn; at least twelve look different."""
_LEGEND_SIZE = 8


@figure_style()
def draw_word_curve(curve: WordCurve, *paths: Path) -> Path:
    """Draw the curve into files; returns the last of them."""
    return save_figure(word_curve_figure(curve), *paths)


def word_curve_figure(curve: WordCurve) -> Any:
    """The curve as matplotlib's figure."""
    maker = figure_maker()
    columns = min(COLUMNS, len(curve.layers))
    rows = math.ceil(len(curve.layers) / columns)
    width, height = max(2.6 * columns, 4.2), 2.4 * rows + 0.3
    figure, axes = maker.subplots(rows, columns, figsize=(width, height), sharex=True, sharey=True, squeeze=False)
    for axis, layer in zip(axes.flat, curve.layers, strict=False):
        _draw_layer(axis, curve, layer)
    for axis in axes.flat[len(curve.layers) :]:
        axis.set_axis_off()
    for axis in axes[:, 0]:
        axis.set_ylabel(f"P({literal_text(curve.word)})")
    # a panel below which there is none has the axis's name and numbers
    for place in range(max(0, len(curve.layers) - columns), len(curve.layers)):
        axes.flat[place].set_xlabel("alpha")
        axes.flat[place].tick_params(labelbottom=True)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    columns = legend_columns(figure, labels, _LEGEND_SIZE)
    figure.set_size_inches(width, height + 0.18 * math.ceil(len(labels) / columns))
    figure.legend(handles, labels, loc="outside upper center", ncols=columns, fontsize=_LEGEND_SIZE)
    figure.set_layout_engine("constrained")
    return figure


def _draw_layer(axis: Any, curve: WordCurve, layer: int) -> None:
    low, high = curve.random_range(layer)
    if high:
        draw_band(axis, curve.alphas, low, high, GREY)
        axis.plot(curve.alphas, high, color=GREY, linestyle=":", label=f"largest of {len(curve.random_names)} random")
    names = [*curve.vectors[1:], curve.vectors[0]]
    looks = [*islice(zip(cycle(_OTHERS), cycle(_MARKERS), strict=False), len(names) - 1), (BLUE, "o")]
    for name, (colour, marker) in zip(names, looks, strict=True):
        if layer in curve.curves[name]:
            points = curve.curves[name][layer]
            mean, margin = np.array(points.mean), np.array(points.margin)
            if np.isfinite(margin).all():
                draw_band(axis, curve.alphas, mean - margin, mean + margin, colour)
            draw_curve(
                axis, curve.alphas, mean, colour, marker, label=literal_text(wrapped_name(format_vector_name(name), 40))
            )
    axis.set(title=f"layer {layer}", ylim=(-0.03, 1.03))
