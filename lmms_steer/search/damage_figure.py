"""The figure of gain against damage: one point a cell, beside those of random vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmms_steer._util.formatting import format_vector_name
from lmms_steer.plots.lines import draw_zero_line
from lmms_steer.plots.style import (
    BLUE,
    DARK_GREY,
    ROLE_MARKERS,
    VERMILLION,
    figure_maker,
    figure_style,
    literal_text,
    save_figure,
)
from lmms_steer.search.results import VectorResult
from lmms_steer.search.selection import ScoreGrid, best_index
from lmms_steer.statistics import Floats

MIN_KL, MAX_KL = 1e-5, 100.0
"""The axis is logarithmic: smaller and larger values are drawn here."""


@figure_style()
def draw_damage(
    folder: Path, name: str, grid: ScoreGrid, controls: Sequence[ScoreGrid], result: VectorResult
) -> list[Path]:
    """Write `damage.png` and `damage.svg`.

    Args:
        folder: where to write them.
        name: the vector.
        grid: the scores of its cells.
        controls: the same of each of its controls.
        result: what was found for it.

    Returns:
        the files; none where no cell's damage is known.
    """
    points, of_controls = _points(grid), list(map(_points, controls))
    if not len(points.kl):
        return []
    figure, ax = figure_maker().subplots(figsize=(6, 3.8), layout="constrained")
    ax.set_xscale("log")
    for number, of_control in enumerate(of_controls):
        label = "cells of random vectors of the same norms" if not number else None
        _draw_points(ax, of_control, VERMILLION, "control", label)
    _draw_points(ax, points, BLUE, "steered", "cells of this vector")
    if any(one.dropped.any() for one in (points, *of_controls)):
        hollow = {"linestyle": "none", "marker": "o", "markersize": 4.5, "markerfacecolor": "none"}
        ax.plot([], [], markeredgecolor=DARK_GREY, label="hollow: dropped early, on fewer questions", **hollow)
    if result.best.kl is not None:
        chosen: dict[str, Any] = {
            "markersize": 10,
            "markerfacecolor": "none",
            "markeredgecolor": "black",
            "markeredgewidth": 1.6,
        }
        label = f"chosen: layer {result.best.layer}, alpha {result.best.alpha:.3g}, {result.best.tokens}"
        ax.plot(_on_axis(result.best.kl), 100 * result.best.gain, linestyle="none", marker="s", label=label, **chosen)
    for number, control in enumerate(controls):
        best, label = best_index(control), None if number else "best cell of each random vector"
        # the mean of unknown values is NaN, which is not drawn
        ax.plot(_on_axis(control.mean_kl(best)), 100 * control.gains[best], marker="s", markersize=9,
                linestyle="none", markerfacecolor="none", markeredgecolor=VERMILLION, label=label)  # fmt: skip
    draw_zero_line(ax)
    ax.set(
        title=f"{literal_text(format_vector_name(name))}: gain against damage",
        xlabel="damage: mean KL(unsteered || steered) of the token that decides, in nats",
        ylabel="gain in points",
    )
    ax.legend(loc="lower left")
    paths = [folder / f"damage.{suffix}" for suffix in ("png", "svg")]
    save_figure(figure, *paths)
    return paths


class _Points(NamedTuple):
    """Cells whose damage is known.

    Attributes:
        kl: their damage in nats.
        gains: in points.
        dropped: whether each was dropped early, so that its gain and damage are of fewer questions.
    """

    kl: Floats
    gains: Floats
    dropped: NDArray[np.bool_]


def _points(grid: ScoreGrid) -> _Points:
    kl = np.array([grid.mean_kl(i) for i in range(len(grid.cells))])
    known, dropped = ~np.isnan(kl), np.full(len(kl), True)
    dropped[grid.finalists] = False
    return _Points(kl[known], 100 * grid.gains[known], dropped[known])


def _draw_points(ax: Any, points: _Points, colour: str, role: str, label: str | None) -> None:
    style = {"linestyle": "none", "marker": ROLE_MARKERS[role], "markersize": 4.5, "alpha": 0.7}
    whole, kl = ~points.dropped, _on_axis(points.kl)
    ax.plot(kl[~whole], points.gains[~whole], markerfacecolor="none", markeredgecolor=colour, **style)
    ax.plot(kl[whole], points.gains[whole], color=colour, markeredgewidth=0, label=label, **style)


def _on_axis(kl: Any) -> Any:
    return np.clip(kl, MIN_KL, MAX_KL)
