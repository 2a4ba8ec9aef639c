"""A search's map: gain over layer and alpha. One drawing and one set of colours for figures, pages and studies."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmms_steer._util import formatting as words

LOSS, GAIN = "#a84300", "#0b5c9e"
"""Orange and blue, through the ground's own colour at 0: told apart by colour-blind readers."""
DEEP = 0.82
"""The share of the limit from which white is read better than black on both (a contrast of 4.2 at least)."""
FEW_ALPHAS = 12
"""More of them, and few cells for each, come from a continuous alpha: cells are drawn as points."""

Cells = Mapping[tuple[int, float], float]
"""(layer, alpha) ▸ gain in points."""


def colour_limit(gains: Iterable[float]) -> float:
    """Where the colours end, on both sides of 0, in points.

    The largest gain, or what three in four cells stay within, and 1 at least. The largest loss is no measure: one alpha
    that ruins every answer would bleach all other cells.
    """
    known = np.array([gain for gain in gains if np.isfinite(gain)])
    return max(1.0, float(known.max()), float(np.quantile(np.abs(known), 0.75))) if known.size else 1.0


def gain_colormap() -> Any:
    """matplotlib's map from `LOSS` at the lower limit to `GAIN` at the upper."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("gain", [LOSS, "#ffffff", GAIN])


def text_colour(gain: float, most: float) -> str:
    """The colour of text on a gain's colour."""
    return "white" if abs(gain) >= DEEP * most else "black"


@dataclass(frozen=True)
class HeatMap:
    """
    Attributes:
        cells: what was measured.
        layers, alphas: the axes, ascending; more than the cells have where maps side by side share them.
        best: the cell that was chosen.
        dropped: cells that were given up early.
    """

    cells: Cells
    layers: tuple[int, ...]
    alphas: tuple[float, ...]
    best: tuple[int, float] | None = None
    dropped: frozenset[tuple[int, float]] = frozenset()

    @property
    def continuous(self) -> bool:
        return len(self.alphas) > FEW_ALPHAS and len(self.cells) < 2 * len(self.alphas)

    @property
    def columns(self) -> int:
        """How wide it is, in cells."""
        return FEW_ALPHAS if self.continuous else len(self.alphas)


def draw_heatmap(ax: Any, drawn: HeatMap, most: float, numbers: bool = False) -> Any:
    """Draw a map, the chosen cell framed; returns what a colour bar is of.

    Args:
        ax: matplotlib's axes.
        drawn: the map.
        most: of `limit`, the same for all maps that are read together.
        numbers: whether each cell says its gain.
    """
    style = {"cmap": gain_colormap(), "vmin": -most, "vmax": most}
    image = (_points if drawn.continuous else _squares)(ax, drawn, style)
    if numbers and not drawn.continuous:
        for (layer, alpha), gain in drawn.cells.items():
            x, y = drawn.alphas.index(alpha), drawn.layers.index(layer)
            ax.text(
                x, y, words.format_points(gain), ha="center", va="center", fontsize=7.5, color=text_colour(gain, most)
            )
    ax.set_xlabel("alpha")
    return image


def draw_colour_bar(figure: Any, image: Any, axes: Any, maps: Iterable[HeatMap]) -> None:
    """The colours' meaning; a pointed end says that a loss is larger."""
    lowest = min((gain for drawn in maps for gain in drawn.cells.values()), default=0.0)
    inches = figure.get_size_inches()[1]
    extend = "min" if lowest < image.norm.vmin else "neither"
    figure.colorbar(image, ax=axes, label="gain in points", extend=extend, shrink=min(0.85, 5 / inches), aspect=25)


def _squares(ax: Any, drawn: HeatMap, style: dict[str, Any]) -> Any:
    from matplotlib.patches import Rectangle

    values: NDArray[np.float64] = np.full((len(drawn.layers), len(drawn.alphas)), np.nan)
    for (layer, alpha), gain in drawn.cells.items():
        values[drawn.layers.index(layer), drawn.alphas.index(alpha)] = gain
    image = ax.imshow(values, aspect="auto", origin="lower", **style)
    for layer, alpha in drawn.dropped:
        ax.plot(drawn.alphas.index(alpha), drawn.layers.index(layer), marker=".", markersize=4, color="#555555")
    if drawn.best:
        x, y = drawn.alphas.index(drawn.best[1]), drawn.layers.index(drawn.best[0])
        ax.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor="black", linewidth=2, zorder=3))
    ax.set_facecolor("#e8e8e8")
    ax.set_xticks(range(len(drawn.alphas)), [f"{alpha:.3g}" for alpha in drawn.alphas], rotation=90, fontsize=7)
    ax.set_yticks(range(len(drawn.layers)), [str(layer) for layer in drawn.layers], fontsize=7)
    return image


def _points(ax: Any, drawn: HeatMap, style: dict[str, Any]) -> Any:
    places = list(drawn.cells)
    x, y = [alpha for _, alpha in places], [layer for layer, _ in places]
    image = ax.scatter(x, y, c=list(drawn.cells.values()), s=36, edgecolors="#888888", linewidths=0.5, **style)
    if drawn.best:
        frame = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": "black", "markeredgewidth": 2}
        ax.plot(drawn.best[1], drawn.best[0], marker="s", **frame)
    ax.set(xlim=(drawn.alphas[0] - 0.05, drawn.alphas[-1] + 0.05), ylim=(drawn.layers[0] - 0.5, drawn.layers[-1] + 0.5))
    ax.set_yticks(drawn.layers, [str(layer) for layer in drawn.layers], fontsize=7)
    return image
