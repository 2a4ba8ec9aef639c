"""The search as pictures: accuracy over layer and alpha for each token target, and the chosen layer's alpha curve."""

from pathlib import Path
from typing import Any

import numpy as np

from lmms_steer.search.selection import Grid


def draw(folder: Path, name: str, grid: Grid, found: dict[str, Any]) -> list[Path]:
    """`heatmap.png|svg` and `alpha.png|svg` in the folder."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    for kind, figure in (
        ("heatmap", _heatmap(pyplot, name, grid, found)),
        ("alpha", _curve(pyplot, name, grid, found)),
    ):
        for suffix in ("png", "svg"):
            path = folder / f"{kind}.{suffix}"
            figure.savefig(path, dpi=140)
            written.append(path)
        pyplot.close(figure)
    return written


def _heatmap(pyplot: Any, name: str, grid: Grid, found: dict[str, Any]) -> Any:
    targets = list(dict.fromkeys(cell.tokens for cell in grid.cells))
    layers = sorted({cell.layer for cell in grid.cells})
    alphas = sorted({cell.alpha for cell in grid.cells})
    gains = {(c.tokens, c.layer, c.alpha): 100 * g for c, g in zip(grid.cells, grid.gains, strict=True)}
    most = max(1.0, *(abs(gain) for gain in gains.values()))
    size = (1.6 + (0.45 * len(alphas) + 0.8) * len(targets), 2.2 + 0.3 * len(layers))
    figure, axes = pyplot.subplots(1, len(targets), figsize=size, squeeze=False, layout="constrained", sharey=True)
    best = found["best"]
    for target, ax in zip(targets, axes[0], strict=True):
        values = [[gains.get((target, layer, alpha), np.nan) for alpha in alphas] for layer in layers]
        image = ax.imshow(values, cmap="RdBu", vmin=-most, vmax=most, aspect="auto", origin="lower")
        ax.set(title=f"{target} tokens", xlabel="alpha")
        ax.set_xticks(range(len(alphas)), [f"{alpha:g}" for alpha in alphas], rotation=90, fontsize=7)
        ax.set_yticks(range(len(layers)), layers, fontsize=8)
        if best["tokens"] == target:
            place = (alphas.index(best["alpha"]), layers.index(best["layer"]))
            ax.plot(
                *place, marker="o", markersize=11, markerfacecolor="none", markeredgecolor="black", markeredgewidth=2
            )
    axes[0][0].set_ylabel("layer")
    figure.colorbar(image, ax=axes, label="gain in points", shrink=0.85)
    random = [control["gain"] for control in found["controls"].values()]
    beside = f"; best of {len(random)} random: {100 * max(random):+.1f}" if random else ""
    figure.suptitle(f"{name}: best {100 * best['gain']:+.1f} points (ringed){beside}", fontsize=10)
    return figure


def _curve(pyplot: Any, name: str, grid: Grid, found: dict[str, Any]) -> Any:
    best = found["best"]
    rows = [i for i, c in enumerate(grid.cells) if (c.layer, c.tokens) == (best["layer"], best["tokens"])]
    rows.sort(key=lambda i: grid.cells[i].alpha)
    alphas = [grid.cells[i].alpha for i in rows]
    differences = 100 * (grid.hits[rows] - grid.base)
    mean, error = differences.mean(1), 1.96 * differences.std(1, ddof=1) / np.sqrt(differences.shape[1])
    figure, ax = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    ax.fill_between(alphas, mean - error, mean + error, color="#4878a8", alpha=0.25, label="95% of the paired gain")
    ax.plot(alphas, mean, "o-", color="#4878a8")
    for control in found["controls"].values():
        ax.axhline(100 * control["gain"], color="#b3592d", linewidth=0.8, linestyle=":")
    if found["controls"]:
        ax.plot([], [], color="#b3592d", linewidth=0.8, linestyle=":", label="each random vector's best cell")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set(title=f"{name}, layer {best['layer']}, {best['tokens']} tokens", xlabel="alpha", ylabel="gain in points")
    ax.legend(fontsize=8)
    return figure
