"""The search as pictures: gain over layer and alpha for each token target, and the chosen layer's alpha curve."""

from pathlib import Path
from typing import Any

import numpy as np

from lmms_steer.search.selection import Grid
from lmms_steer.search.study import difference

FEW_ALPHAS = 12
"""More of them, and few cells for each, come from a continuous alpha: cells are drawn as points."""


def draw(folder: Path, name: str, grid: Grid, found: dict[str, Any]) -> list[Path]:
    """`heatmap.png|svg` and `alpha.png|svg` in the folder."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    for kind, figure in (("heatmap", _map(pyplot, name, grid, found)), ("alpha", _curve(pyplot, name, grid, found))):
        for suffix in ("png", "svg"):
            path = folder / f"{kind}.{suffix}"
            figure.savefig(path, dpi=140)
            written.append(path)
        pyplot.close(figure)
    return written


def _paired(grid: Grid, i: int) -> tuple[float, float, float]:
    """A cell's gain in points, and its 95% interval, on the questions that it was asked."""
    asked = ~np.isnan(grid.scores[i])
    told = difference(grid.base[asked], grid.scores[i][asked])
    return 100 * told["gain"], 100 * told["low"], 100 * told["high"]


def _short(name: str) -> str:
    """`concept/method` of a vector's file."""
    path = Path(name)
    return f"{path.parent.name}/{path.stem}" if path.suffix == ".safetensors" else name


def _map(pyplot: Any, name: str, grid: Grid, found: dict[str, Any]) -> Any:
    targets = list(dict.fromkeys(cell.tokens for cell in grid.cells))
    layers = sorted({cell.layer for cell in grid.cells})
    alphas = sorted({cell.alpha for cell in grid.cells})
    continuous = len(alphas) > FEW_ALPHAS and len(grid.cells) < 2 * len(alphas)
    columns = FEW_ALPHAS if continuous else len(alphas)
    size = (1.6 + max(1.9, 0.45 * columns + 0.8) * len(targets), 2.4 + 0.3 * len(layers))
    figure, axes = pyplot.subplots(1, len(targets), figsize=size, squeeze=False, layout="constrained", sharey=True)
    most = max(1.0, 100 * float(np.abs(grid.gains).max()))
    best = found["best"]
    for target, ax in zip(targets, axes[0], strict=True):
        paint = _points if continuous else _squares
        image = paint(ax, [i for i, cell in enumerate(grid.cells) if cell.tokens == target], grid, layers, alphas, most)
        ax.set(title=f"{target} tokens", xlabel="alpha")
        if best["tokens"] == target:
            x = best["alpha"] if continuous else alphas.index(best["alpha"])
            y = best["layer"] if continuous else layers.index(best["layer"])
            ring = {"markersize": 11, "markerfacecolor": "none", "markeredgecolor": "black", "markeredgewidth": 2}
            ax.plot(x, y, marker="o", **ring)
    axes[0][0].set_ylabel("layer")
    figure.colorbar(image, ax=axes, label="gain in points", shrink=0.85)
    random = [control["gain"] for control in found["controls"].values()]
    beside = f"; best of {len(random)} random: {100 * max(random):+.1f}" if random else ""
    dropped = " · dot: dropped early" if len(grid.finalists) < len(grid.cells) else ""
    figure.suptitle(f"{_short(name)}: best {100 * best['gain']:+.1f} points (ringed){beside}{dropped}", fontsize=10)
    return figure


def _squares(ax: Any, chosen: list[int], grid: Grid, layers: list[int], alphas: list[float], most: float) -> Any:
    values = np.full((len(layers), len(alphas)), np.nan)
    finalists, gains = set(grid.finalists), grid.gains
    for i in chosen:
        place = layers.index(grid.cells[i].layer), alphas.index(grid.cells[i].alpha)
        values[place] = 100 * gains[i]
        if i not in finalists:
            ax.plot(place[1], place[0], marker=".", markersize=4, color="#555555")
    image = ax.imshow(values, cmap="RdBu", vmin=-most, vmax=most, aspect="auto", origin="lower")
    ax.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas], rotation=90, fontsize=7)
    ax.set_yticks(range(len(layers)), layers, fontsize=8)
    return image


def _points(ax: Any, chosen: list[int], grid: Grid, layers: list[int], alphas: list[float], most: float) -> Any:
    cells = [grid.cells[i] for i in chosen]
    image = ax.scatter(
        [cell.alpha for cell in cells], [cell.layer for cell in cells], c=100 * grid.gains[chosen], cmap="RdBu",
        vmin=-most, vmax=most, s=36, edgecolors="#888888", linewidths=0.5,
    )  # fmt: skip
    ax.set(xlim=(min(alphas) - 0.05, max(alphas) + 0.05), ylim=(layers[0] - 0.5, layers[-1] + 0.5))
    ax.set_yticks(layers, layers, fontsize=8)
    return image


def _curve(pyplot: Any, name: str, grid: Grid, found: dict[str, Any]) -> Any:
    best = found["best"]
    rows = [i for i, c in enumerate(grid.cells) if (c.layer, c.tokens) == (best["layer"], best["tokens"])]
    rows.sort(key=lambda i: grid.cells[i].alpha)
    alphas = [grid.cells[i].alpha for i in rows]
    mean, low, high = np.array([_paired(grid, i) for i in rows]).T
    figure, ax = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    ax.fill_between(alphas, low, high, color="#4878a8", alpha=0.25, label="95% of the paired gain")
    ax.plot(alphas, mean, "o-", color="#4878a8")
    for control in found["controls"].values():
        ax.axhline(100 * control["gain"], color="#b3592d", linewidth=0.8, linestyle=":")
    if found["controls"]:
        ax.plot([], [], color="#b3592d", linewidth=0.8, linestyle=":", label="each random vector's best cell")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(
        title=f"{_short(name)}, layer {best['layer']}, {best['tokens']} tokens", xlabel="alpha", ylabel="gain in points"
    )
    ax.legend(fontsize=8)
    return figure
