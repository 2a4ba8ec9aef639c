"""Figures of a search: gain over layer and alpha for each token target, and the chosen layer's alpha curve."""

from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np

from lmms_steer._util.formatting import format_p, format_points, format_vector_name
from lmms_steer.plots import heatmap as heat
from lmms_steer.plots.lines import draw_band, draw_curve, draw_zero_line
from lmms_steer.plots.style import BLUE, VERMILLION, figure_maker, figure_style, literal_text, save_figure
from lmms_steer.search.assessment import paired_gain
from lmms_steer.search.results import CellResult, VectorResult
from lmms_steer.search.selection import ScoreGrid

_CHARACTERS = 13
"""Characters of a title in an inch."""


@figure_style()
def draw_study(folder: Path, name: str, grid: ScoreGrid, result: VectorResult) -> list[Path]:
    """Write `heatmap.png`, `heatmap.svg`, `alpha.png` and `alpha.svg`.

    Args:
        folder: where to write them.
        name: the vector.
        grid: the scores of its cells.
        result: what was found for it.

    Returns:
        the files.
    """
    maker = figure_maker()
    written: list[Path] = []
    figures = {"heatmap": _heatmap(maker, name, grid, result), "alpha": _curve(maker, name, grid, result)}
    for kind, figure in figures.items():
        paths = [folder / f"{kind}.{suffix}" for suffix in ("png", "svg")]
        save_figure(figure, *paths)
        written += paths
    return written


def _gain_points(grid: ScoreGrid, i: int) -> tuple[float, float, float]:
    """A cell's gain in points and its 95% interval, on the questions that it was measured on."""
    measured = ~np.isnan(grid.scores[i])
    image_of = None if grid.image_of is None else grid.image_of[measured]
    gain = paired_gain(grid.base[measured], grid.scores[i][measured], image_of)
    return 100 * gain.gain, 100 * gain.low, 100 * gain.high


def _heatmap(maker: Any, name: str, grid: ScoreGrid, result: VectorResult) -> Any:
    maps = _maps(grid, result.best)
    columns, rows = max(drawn.columns for drawn in maps.values()), len({cell.layer for cell in grid.cells})
    one_kind = len({drawn.continuous for drawn in maps.values()}) == 1
    size = (1.6 + max(1.9, 0.45 * columns + 0.8) * len(maps), 2.4 + 0.3 * rows)
    figure, axes = maker.subplots(1, len(maps), figsize=size, squeeze=False, layout="constrained", sharey=one_kind)
    limit = heat.colour_limit(100 * grid.gains)
    for (target, drawn), ax in zip(maps.items(), axes[0], strict=True):
        image = heat.draw_heatmap(ax, drawn, limit)
        ax.set_title(f"{target} tokens")
    axes[0][0].set_ylabel("layer")
    heat.draw_colour_bar(figure, image, axes, maps.values())
    control_gains = [control.gain for control in result.controls.values()]
    random = ""
    if control_gains:
        random = f"; best of {len(control_gains)} random: {format_points(100 * max(control_gains))}"
    squares = [drawn for drawn in maps.values() if not drawn.continuous]
    dropped = " · dot: dropped early" if any(drawn.dropped for drawn in maps.values()) else ""
    untried = " · grey: not tried" if any(len(d.cells) < len(d.layers) * len(d.alphas) for d in squares) else ""
    best = f"best {format_points(100 * result.best.gain)} points (framed)"
    verdict = "" if result.winner else f", no winner, p = {format_p(result.p_corrected)}"
    title = fill(f"{format_vector_name(name)}: {best}{verdict}{random}{dropped}{untried}", int(_CHARACTERS * size[0]))
    figure.suptitle(literal_text(title), fontsize=10)
    return figure


def _maps(grid: ScoreGrid, best: CellResult) -> dict[str, heat.HeatMap]:
    """Token target ▸ its map. All maps have the same axes."""
    layers = tuple(sorted({cell.layer for cell in grid.cells}))
    alphas = tuple(sorted({cell.alpha for cell in grid.cells}))
    finalists, gains = set(grid.finalists), 100 * grid.gains
    maps = {}
    for target in dict.fromkeys(cell.tokens for cell in grid.cells):
        places = {(c.layer, c.alpha): i for i, c in enumerate(grid.cells) if c.tokens == target}
        maps[target] = heat.HeatMap(
            cells={place: float(gains[i]) for place, i in places.items()},
            layers=layers,
            alphas=alphas,
            best=(best.layer, best.alpha) if best.tokens == target else None,
            dropped=frozenset(place for place, i in places.items() if i not in finalists),
        )
    return maps


def _curve(maker: Any, name: str, grid: ScoreGrid, result: VectorResult) -> Any:
    best = result.best
    rows = [i for i, c in enumerate(grid.cells) if (c.layer, c.tokens) == (best.layer, best.tokens)]
    rows.sort(key=lambda i: grid.cells[i].alpha)
    alphas = [grid.cells[i].alpha for i in rows]
    mean, low, high = np.array([_gain_points(grid, i) for i in rows]).T
    figure, ax = maker.subplots(figsize=(6, 3.6), layout="constrained")
    draw_band(ax, alphas, low, high, BLUE, label="95% interval of each cell alone,\nnot corrected for the choice")
    draw_curve(ax, alphas, mean, BLUE)
    early = [place for place, i in enumerate(rows) if i not in set(grid.finalists)]
    if early:
        points = np.array(alphas)[early], mean[early]
        ax.plot(*points, "o", color="white", markeredgecolor=BLUE, markersize=4.5, label="dropped early")
    for control in result.controls.values():
        ax.axhline(100 * control.gain, color=VERMILLION, linewidth=0.8, linestyle=":")
    if result.controls:
        ax.plot([], [], color=VERMILLION, linewidth=0.8, linestyle=":", label="each random vector's best cell")
    draw_zero_line(ax)
    ax.set(
        title=f"{literal_text(format_vector_name(name))}, layer {best.layer}, {best.tokens} tokens",
        xlabel="alpha",
        ylabel="gain in points",
    )
    ax.legend()
    return figure
