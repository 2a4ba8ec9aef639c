"""The search as pictures: gain over layer and alpha for each token target, and the chosen layer's alpha curve."""

from pathlib import Path
from typing import Any

import numpy as np

from lmms_steer._util import formatting as words
from lmms_steer.plots import heatmap as heat
from lmms_steer.plots.lines import draw_band, draw_curve, draw_zero_line
from lmms_steer.plots.style import BLUE, VERMILLION, figure_style, save_figure
from lmms_steer.search.selection import ScoreGrid
from lmms_steer.search.study import paired_difference


@figure_style()
def draw_study(folder: Path, name: str, grid: ScoreGrid, found: dict[str, Any]) -> list[Path]:
    """`heatmap.png|svg` and `alpha.png|svg` in the folder."""
    from matplotlib import pyplot

    written: list[Path] = []
    for kind, figure in (("heatmap", _map(pyplot, name, grid, found)), ("alpha", _curve(pyplot, name, grid, found))):
        paths = [folder / f"{kind}.{suffix}" for suffix in ("png", "svg")]
        save_figure(figure, *paths)
        written += paths
    return written


def _paired(grid: ScoreGrid, i: int) -> tuple[float, float, float]:
    """A cell's gain in points, and its 95% interval, on the questions that it was asked."""
    asked = ~np.isnan(grid.scores[i])
    images = None if grid.images is None else grid.images[asked]
    told = paired_difference(grid.base[asked], grid.scores[i][asked], images)
    return 100 * told["gain"], 100 * told["low"], 100 * told["high"]


def _map(pyplot: Any, name: str, grid: ScoreGrid, found: dict[str, Any]) -> Any:
    maps, best = _maps(grid, found["best"]), found["best"]
    wide, high = next(iter(maps.values())).columns, len({cell.layer for cell in grid.cells})
    size = (1.6 + max(1.9, 0.45 * wide + 0.8) * len(maps), 2.4 + 0.3 * high)
    figure, axes = pyplot.subplots(1, len(maps), figsize=size, squeeze=False, layout="constrained", sharey=True)
    most = heat.colour_limit(100 * grid.gains)
    for (target, drawn), ax in zip(maps.items(), axes[0], strict=True):
        image = heat.draw_heatmap(ax, drawn, most)
        ax.set_title(f"{target} tokens")
    axes[0][0].set_ylabel("layer")
    heat.draw_colour_bar(figure, image, axes, maps.values())
    random = [control["gain"] for control in found["controls"].values()]
    beside = f"; best of {len(random)} random: {words.format_points(100 * max(random))}" if random else ""
    squares = [drawn for drawn in maps.values() if not drawn.continuous]
    dropped = " · dot: dropped early" if any(drawn.dropped for drawn in squares) else ""
    untried = " · grey: not tried" if any(len(d.cells) < len(d.layers) * len(d.alphas) for d in squares) else ""
    shown = words.format_vector_name(name)
    title = f"{shown}: best {words.format_points(100 * best['gain'])} points (framed){beside}{dropped}{untried}"
    figure.suptitle(title, fontsize=10)
    return figure


def _maps(grid: ScoreGrid, best: dict[str, Any]) -> dict[str, heat.HeatMap]:
    """Token target ▸ its map; all on the same layers and alphas."""
    layers = tuple(sorted({cell.layer for cell in grid.cells}))
    alphas = tuple(sorted({cell.alpha for cell in grid.cells}))
    finalists, gains = set(grid.finalists), 100 * grid.gains
    maps = {}
    for target in dict.fromkeys(cell.tokens for cell in grid.cells):
        mine = {(c.layer, c.alpha): i for i, c in enumerate(grid.cells) if c.tokens == target}
        maps[target] = heat.HeatMap(
            cells={place: float(gains[i]) for place, i in mine.items()},
            layers=layers,
            alphas=alphas,
            best=(best["layer"], best["alpha"]) if best["tokens"] == target else None,
            dropped=frozenset(place for place, i in mine.items() if i not in finalists),
        )
    return maps


def _curve(pyplot: Any, name: str, grid: ScoreGrid, found: dict[str, Any]) -> Any:
    best = found["best"]
    rows = [i for i, c in enumerate(grid.cells) if (c.layer, c.tokens) == (best["layer"], best["tokens"])]
    rows.sort(key=lambda i: grid.cells[i].alpha)
    alphas = [grid.cells[i].alpha for i in rows]
    mean, low, high = np.array([_paired(grid, i) for i in rows]).T
    figure, ax = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    draw_band(ax, alphas, low, high, BLUE, label="95% of the paired gain")
    draw_curve(ax, alphas, mean, BLUE)
    for control in found["controls"].values():
        ax.axhline(100 * control["gain"], color=VERMILLION, linewidth=0.8, linestyle=":")
    if found["controls"]:
        ax.plot([], [], color=VERMILLION, linewidth=0.8, linestyle=":", label="each random vector's best cell")
    draw_zero_line(ax)
    ax.set(
        title=f"{words.format_vector_name(name)}, layer {best['layer']}, {best['tokens']} tokens",
        xlabel="alpha",
        ylabel="gain in points",
    )
    ax.legend()
    return figure
