"""The heat map of a search: gain over layer and alpha, drawn the same in studies, comparisons and pages."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmms_steer._util.formatting import format_points
from lmms_steer.plots.style import GREY
from lmms_steer.plots.ticks import label_decades, label_numbers

LOSS, GAIN = "#a84300", "#0b5c9e"
"""Orange and blue, with the background's own colour at 0; colour-blind readers can distinguish them."""
DEEP = 0.82
"""The share of the colour limit from which white text is more readable than black (contrast 4.2 at least)."""
FEW_ALPHAS = 12
"""More alphas than this, with few cells for each, are drawn as points."""
_WIDTH_OF_POINTS = 8
"""The width of a map of points, in cells of a grid."""
_WIDE_RANGE = 10
"""From this ratio of the largest to the smallest alpha on, points are drawn on a logarithmic axis."""
_NOT_MEASURED = "#e8e8e8"
_TICK_SIZE = 7

Place = tuple[int, float]
"""(layer, alpha)."""


@dataclass(frozen=True)
class HeatMap:
    """The cells of one heat map.

    Attributes:
        cells: (layer, alpha) ▸ gain in points, of each cell that was measured.
        layers: the vertical axis, ascending; may hold more than the cells do where several maps share it.
        alphas: the horizontal axis, likewise.
        best: the chosen cell; None if it is not in this map.
        dropped: cells that the search gave up early.
    """

    cells: Mapping[Place, float]
    layers: tuple[int, ...]
    alphas: tuple[float, ...]
    best: Place | None = None
    dropped: frozenset[Place] = frozenset()

    @property
    def continuous(self) -> bool:
        """Whether cells are drawn as points on a true axis of alpha, instead of as squares of a grid.

        So are those of a strategy that proposes alphas, and of KL budgets: layers have alphas of their own.
        """
        at_layer = Counter(layer for layer, _ in self.cells)
        is_grid = all(count == len(self.alphas) for count in at_layer.values())
        return not is_grid or (len(self.alphas) > FEW_ALPHAS and len(self.cells) < 2 * len(self.alphas))

    @property
    def columns(self) -> int:
        """The width of the map, in cells."""
        return _WIDTH_OF_POINTS if self.continuous else len(self.alphas)


def colour_limit(gains: Iterable[float]) -> float:
    """Return the gain, in points, at which the colours end on both sides of 0.

    It is the largest gain, or the value that three in four cells stay within if that is larger, and at least 1. The
    largest loss does not count: one alpha that ruins every answer would make all other cells pale.

    Args:
        gains: in points; values that are not finite are ignored.
    """
    known = np.array([gain for gain in gains if np.isfinite(gain)])
    return max(1.0, float(known.max()), float(np.quantile(np.abs(known), 0.75))) if known.size else 1.0


def gain_colormap() -> Any:
    """Return matplotlib's colour map from `LOSS` at the lower limit over white to `GAIN` at the upper."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("gain", [LOSS, "#ffffff", GAIN])


def text_colour(gain: float, limit: float) -> str:
    """Return the readable text colour, black or white, on the colour of a gain."""
    return "white" if abs(gain) >= DEEP * limit else "black"


def draw_heatmap(ax: Any, heatmap: HeatMap, limit: float, numbers: bool = False) -> Any:
    """Draw a heat map with a frame around the chosen cell.

    Args:
        ax: matplotlib's axes.
        heatmap: the cells.
        limit: of `colour_limit`, the same for all maps that are compared with each other.
        numbers: whether to write each cell's gain into it.

    Returns:
        The drawing that a colour bar refers to.
    """
    style = {"cmap": gain_colormap(), "vmin": -limit, "vmax": limit}
    image = (_draw_points if heatmap.continuous else _draw_grid)(ax, heatmap, style)
    if numbers and not heatmap.continuous:
        for (layer, alpha), gain in heatmap.cells.items():
            x, y = heatmap.alphas.index(alpha), heatmap.layers.index(layer)
            colour = text_colour(gain, limit)
            ax.text(x, y, format_points(gain), ha="center", va="center", fontsize=7.5, color=colour)
    ax.set_xlabel("alpha")
    return image


def draw_colour_bar(figure: Any, image: Any, axes: Any, heatmaps: Iterable[HeatMap]) -> None:
    """Draw the colour bar of one or more maps; its lower end is pointed where a loss exceeds the limit.

    Args:
        figure: matplotlib's figure.
        image: what `draw_heatmap` returned for one of the maps.
        axes: the axes of the maps.
        heatmaps: the maps.
    """
    lowest = min((gain for heatmap in heatmaps for gain in heatmap.cells.values()), default=0.0)
    height = figure.get_size_inches()[1]
    extend = "min" if lowest < image.norm.vmin else "neither"
    figure.colorbar(image, ax=axes, label="gain in points", extend=extend, shrink=min(0.85, 5 / height), aspect=25)


def _draw_grid(ax: Any, heatmap: HeatMap, style: dict[str, Any]) -> Any:
    from matplotlib.patches import Rectangle

    layers, alphas = heatmap.layers, heatmap.alphas
    values: NDArray[np.float64] = np.full((len(layers), len(alphas)), np.nan)
    for (layer, alpha), gain in heatmap.cells.items():
        values[layers.index(layer), alphas.index(alpha)] = gain
    image = ax.imshow(values, aspect="auto", origin="lower", **style)
    for layer, alpha in heatmap.dropped:
        _draw_dot(ax, alphas.index(alpha), layers.index(layer), heatmap.cells.get((layer, alpha), 0.0), style)
    if heatmap.best:
        x, y = alphas.index(heatmap.best[1]), layers.index(heatmap.best[0])
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2, zorder=3))
    ax.set_facecolor(_NOT_MEASURED)
    label_numbers(ax, "x", [f"{alpha:.3g}" for alpha in alphas], _TICK_SIZE, rotated=True)
    label_numbers(ax, "y", list(map(str, layers)), _TICK_SIZE)
    return image


def _draw_points(ax: Any, heatmap: HeatMap, style: dict[str, Any]) -> Any:
    layers, alphas = heatmap.layers, heatmap.alphas
    x, y = [alpha for _, alpha in heatmap.cells], [layer for layer, _ in heatmap.cells]
    image = ax.scatter(x, y, c=list(heatmap.cells.values()), s=64, edgecolors=GREY, linewidths=0.5, **style)
    for layer, alpha in heatmap.dropped & heatmap.cells.keys():
        _draw_dot(ax, alpha, layer, heatmap.cells[layer, alpha], style)
    if heatmap.best:
        frame = {"markersize": 13, "markerfacecolor": "none", "markeredgecolor": "black", "markeredgewidth": 2}
        ax.plot(heatmap.best[1], heatmap.best[0], marker="s", **frame)
    # room for the marks at the ends, whatever the sizes of alphas and the steps between layers
    if alphas[0] > 0 and alphas[-1] >= _WIDE_RANGE * alphas[0]:
        right = (alphas[-1] / alphas[0]) ** 0.06
        ax.set(xscale="log", xlim=(alphas[0] / right, alphas[-1] * right))
        label_decades(ax, alphas[-1] / alphas[0])
    else:
        right = 0.06 * (alphas[-1] - alphas[0])
        ax.set(xlim=(alphas[0] - right, alphas[-1] + right))
    up = 0.6 * (layers[-1] - layers[0]) / max(1, len(layers) - 1) or 0.6
    ax.set(ylim=(layers[0] - up, layers[-1] + up))
    ax.set_yticks(layers, [str(layer) for layer in layers], fontsize=_TICK_SIZE)
    return image


def _draw_dot(ax: Any, x: float, y: float, gain: float, style: dict[str, Any]) -> None:
    """Mark a cell that was dropped early."""
    ax.plot(x, y, marker=".", markersize=5, color=text_colour(gain, style["vmax"]))
