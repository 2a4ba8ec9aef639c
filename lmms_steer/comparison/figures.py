"""`lmms-steer plot`: gain tables, gains with intervals and maps of searches, for papers, in one style."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmms_steer._util import formatting as words
from lmms_steer.comparison import tables as row_words
from lmms_steer.comparison.leaderboard import Row, build_leaderboard
from lmms_steer.comparison.provenance import selection_warnings
from lmms_steer.comparison.studies import read_maps, read_searches
from lmms_steer.comparison.systems import read_systems
from lmms_steer.comparison.tables import refusal_lines
from lmms_steer.errors import UserError, unknown_name
from lmms_steer.plots import heatmap as heat
from lmms_steer.plots.style import pyplot_for, save_figure

KINDS = ("gains", "table", "maps")
# Okabe and Ito's colours, told apart by colour-blind readers; each role has a mark of its own
_COLOURS = {"steered": "#0072B2", "control": "#D55E00", "prompted": "#009E73", "other": "#7A5195"}
_MARKS = {"steered": "o", "control": "D", "prompted": "s", "other": "^"}
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


def draw_comparison(
    runs: Sequence[str],
    out: Path,
    kind: str | None = None,
    baseline: str | None = None,
    studies: Sequence[Path] = (),
    metric: str | None = None,
) -> list[str]:
    """Draw one figure.

    Args:
        runs: as for a comparison.
        out: .png, .svg or .pdf.
        kind: gains, table or maps; where unsaid, gains of runs and maps of studies.
        baseline, metric: as for a comparison.
        studies: folders of searches.

    Returns:
        What is to be printed: runs left out and warnings, as a comparison has them, and last the file.

    Raises:
        UserError: for what cannot be read or drawn.
    """
    if kind is None and runs and studies:
        raise UserError("runs and --studies do not go into one figure: say --kind gains or table for the runs, or maps")
    kind = kind or ("gains" if runs else "maps")
    if kind not in KINDS:
        raise unknown_name("kind of plot", kind, KINDS)
    if kind == "maps" and not studies:
        raise UserError("maps are of searches: give --studies DIR, or folders of runs for their gains")
    pyplot = pyplot_for(out)
    with pyplot.rc_context(_STYLE):
        if kind == "maps":
            return [str(save_figure(_maps(pyplot, read_maps(studies)), out))]
        systems = read_systems(runs, baseline, metric)
        rows = build_leaderboard(systems)
        drawn = [row for row in rows if row.test]
        if not drawn:
            raise UserError("there is nothing to draw: no run but the baseline")
        told = [*refusal_lines(rows), *selection_warnings(systems.values(), read_searches(studies))]
        return [*told, str(save_figure((_table if kind == "table" else _gains)(pyplot, drawn), out))]


def _table(pyplot: Any, rows: list[Row]) -> Any:
    """Systems x tasks: the gain as colour and number, with its interval."""
    tasks, systems = (list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("task", "system"))
    found = {(row.system, row.task): row for row in rows}
    # tasks that are not scored in shares have units of their own, and no colour beside the others
    values = [[_points(found.get((system, task))) for task in tasks] for system in systems]
    most = max(1.0, float(np.nanmax(np.abs(values))) if not np.isnan(values).all() else 1.0)
    size = (1.3 + 0.09 * max(map(len, systems)) + 1.25 * len(tasks), 1.0 + 0.42 * len(systems))
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    axes.imshow(values, cmap=heat.gain_colormap(), vmin=-most, vmax=most, aspect="auto")
    for y, system in enumerate(systems):
        for x, task in enumerate(tasks):
            row = found.get((system, task))
            if row is not None:
                gain, _, interval = row_words.format_gain(row).partition(" ")
                colour = heat.text_colour(values[y][x], most)
                star = "*" if row.p_holm < 0.05 else ""
                axes.text(x, y - 0.14, gain + star, ha="center", va="center", color=colour, fontsize=9)
                axes.text(x, y + 0.24, interval, ha="center", va="center", color=colour, fontsize=6.5)
    labels = [f"{_plain(task)}\n{_sizes(rows, task)}" for task in tasks]
    axes.set_xticks(range(len(tasks)), labels)
    axes.set_yticks(range(len(systems)), [_plain(system) for system in systems])
    axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    figure.supxlabel("gain in points over the baseline [95%]; * Holm-corrected p < 0.05", fontsize=8)
    return figure


def _gains(pyplot: Any, rows: list[Row]) -> Any:
    """A panel a task: each system's gain and interval."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    columns = min(3, len(tasks))
    lines = -(-len(tasks) // columns)
    most = max(sum(row.task == task for row in rows) for task in tasks)
    size = (1.2 + 2.6 * columns, lines * (0.9 + 0.24 * most))
    figure, axes = pyplot.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False, sharex=True)
    for ax in axes.flat[len(tasks) :]:
        ax.axis("off")
    for task, ax in zip(tasks, axes.flat, strict=False):
        mine = [row for row in rows if row.task == task]
        ax.axvline(0, color="#555555", linewidth=0.8)
        for y, row in enumerate(mine):
            colour, low, high = _COLOURS[row.role], row.low * row.scale, row.high * row.scale
            ax.plot([low, high], [y, y], color=colour, linewidth=1.6)
            face = colour if row.p_holm < 0.05 else "white"
            mark = {"marker": _MARKS[row.role], "markerfacecolor": face, "markeredgecolor": colour}
            ax.plot(row.gain * row.scale, y, markersize=5.5, **mark)
        ax.set_yticks(range(len(mine)), [_plain(row.system) for row in mine])
        ax.margins(y=0.25)
        ax.invert_yaxis()
        ax.set_title(f"{_plain(task)} ({_sizes(rows, task)})")
        ax.xaxis.set_tick_params(labelbottom=True)
    figure.supxlabel("gain over the baseline [95%]; filled: Holm-corrected p < 0.05", fontsize=8)
    return figure


def _maps(pyplot: Any, found: list[dict[str, Any]]) -> Any:
    """A row a vector, a column a token target."""
    vectors = list(dict.fromkeys((one["study"], one["vector"]) for one in found))
    targets = list(dict.fromkeys(one["tokens"] for one in found))
    several = len({study for study, _ in vectors}) > 1
    maps = {(one["study"], one["vector"], one["tokens"]): _map(one, found) for one in found}
    sizes = {(one["study"], one["vector"], one["tokens"]): one["n"] for one in found}
    most = heat.colour_limit(gain for drawn in maps.values() for gain in drawn.cells.values())
    wide, high = max(drawn.columns for drawn in maps.values()), max(len(drawn.layers) for drawn in maps.values())
    size = (1.6 + max(1.7, 0.6 + 0.36 * wide) * len(targets), (1.2 + 0.24 * high) * len(vectors))
    figure, axes = pyplot.subplots(len(vectors), len(targets), figsize=size, layout="constrained", squeeze=False)
    for (study, vector), line in zip(vectors, axes, strict=True):
        for target, ax in zip(targets, line, strict=True):
            told = ""
            if (study, vector, target) in maps:
                image = heat.draw_heatmap(ax, maps[study, vector, target], most)
                ax.set_ylabel("layer")
                told = f"{target} tokens (n = {sizes[study, vector, target]})"
            else:
                ax.axis("off")
            name = f"{study}: {words.format_vector_name(vector)}" if several else words.format_vector_name(vector)
            # a row's name begins above its first map, and has the whole row's width
            ax.set_title(f"{_plain(name)}\n{told}" if ax is line[0] else told, fontsize=8, loc="left")
    heat.draw_colour_bar(figure, image, axes, maps.values())
    return figure


def _map(one: dict[str, Any], found: list[dict[str, Any]]) -> heat.HeatMap:
    """One of those found, on the axes of all of its vector."""
    beside = [other for other in found if (other["study"], other["vector"]) == (one["study"], one["vector"])]
    layers, alphas = (sorted({x for other in beside for x in other[key]}) for key in ("layers", "alphas"))
    places = [(layer, alpha) for layer in one["layers"] for alpha in one["alphas"]]
    gains = [gain for line in one["gains"] for gain in line]
    return heat.HeatMap(
        cells={place: 100 * gain for place, gain in zip(places, gains, strict=True) if gain is not None},
        layers=tuple(layers),
        alphas=tuple(alphas),
        best=tuple(one["best"]) if one["best"] else None,
    )


def _points(row: Row | None) -> float:
    return float("nan") if row is None or row.scale == 1 else row.gain * row.scale


def _sizes(rows: list[Row], task: str) -> str:
    return f"n = {next(row.n for row in rows if row.task == task)}"


def _plain(text: str) -> str:
    """Without what matplotlib would read as a formula."""
    return text.replace("$", r"\$")
