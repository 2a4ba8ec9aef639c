"""Figures of a comparison: gains with intervals, tables of gains, ranks among random vectors, maps of searches."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmms_steer._util.formatting import format_vector_name
from lmms_steer.comparison.control_ranks import FEWEST, ControlRank, control_ranks
from lmms_steer.comparison.leaderboard import LeaderboardRow
from lmms_steer.comparison.row_texts import SIGNIFICANT, format_gain
from lmms_steer.comparison.studies import SearchMap, read_maps
from lmms_steer.errors import UserError, unknown_name
from lmms_steer.plots.glyphs import drawn_length
from lmms_steer.plots.heatmap import HeatMap, colour_limit, draw_colour_bar, draw_heatmap, gain_colormap, text_colour
from lmms_steer.plots.lines import draw_interval, draw_zero_line
from lmms_steer.plots.style import (
    MARKER_NAMES,
    ROLE_COLOURS,
    ROLE_MARKERS,
    figure_maker,
    figure_style,
    literal_text,
    wrapped_name,
)
from lmms_steer.plots.ticks import draw_caption

GAINS = ("gains", "table", "ranks")
KINDS = (*GAINS, "maps")
_MAX_COLUMNS = 3
_SMALL = 8
_SMALLEST = 6.5


@figure_style()
def maps_figure(studies: Iterable[Path]) -> Any:
    """Draw the heat maps of searches, as a `matplotlib.figure.Figure`.

    Raises:
        UserError: for a folder that holds no study.
    """
    return _draw_maps(figure_maker(), read_maps(studies))


@figure_style()
def gains_figure(rows: Sequence[LeaderboardRow], kind: str = "gains") -> Any:
    """Draw the rows of a leaderboard, as a `matplotlib.figure.Figure`.

    Args:
        rows: of the leaderboard.
        kind: `gains`, with intervals; `table`, the same as numbers; `ranks`, each system's gain among those of random
            vectors at the same place.

    Raises:
        UserError: for another kind, or where no row is compared with the baseline or has random vectors beside it.
    """
    if kind not in GAINS:
        raise unknown_name("kind of plot", kind, GAINS)
    compared = [row for row in rows if row.test]
    if not compared:
        raise UserError("there is nothing to draw: no run but the baseline")
    if kind == "ranks":
        return _draw_ranks(figure_maker(), list(control_ranks(rows)))
    return (_draw_table if kind == "table" else _draw_gains)(figure_maker(), compared)


def _draw_table(maker: Any, rows: list[LeaderboardRow]) -> Any:
    """Draw systems by tasks: each gain as a colour and as a number with its interval."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    systems = list(dict.fromkeys(row.system for row in rows))
    cells = {(row.system, row.task): row for row in rows}
    values = [[_colour_value(cells.get((system, task))) for task in tasks] for system in systems]
    limit = max(1.0, float(np.nanmax(np.abs(values))) if not np.isnan(values).all() else 1.0)
    names, titles = list(map(wrapped_name, systems)), [wrapped_name(task) for task in tasks]
    height = max(0.42, 0.16 * max(1 + name.count("\n") for name in names))
    column = max(1.25, 0.095 * _widest(titles))
    size = (1.3 + 0.09 * _widest(names) + column * len(tasks), 1.0 + height * len(systems))
    figure, axes = maker.subplots(figsize=size, layout="constrained")
    axes.imshow(values, cmap=gain_colormap(), vmin=-limit, vmax=limit, aspect="auto")
    for y, system in enumerate(systems):
        for x, task in enumerate(tasks):
            row = cells.get((system, task))
            if row is not None:
                gain, _, interval = format_gain(row).partition(" ")
                star = "*" if row.p_holm < SIGNIFICANT else ""
                style = {"ha": "center", "va": "center", "color": text_colour(values[y][x], limit)}
                axes.text(x, y - 0.14, gain + star, **style)
                axes.text(x, y + 0.24, interval, fontsize=_SMALLEST, **style)
    counts = (_question_count(rows, task) for task in tasks)
    axes.set_xticks(range(len(tasks)), [f"{literal_text(t)}\n{n}" for t, n in zip(titles, counts, strict=True)])
    axes.set_yticks(range(len(systems)), list(map(literal_text, names)))
    axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    draw_caption(figure, f"gain{_unit(rows)} over the baseline [95%]; * Holm-corrected p < 0.05", _SMALL)
    return figure


def _draw_gains(maker: Any, rows: list[LeaderboardRow]) -> Any:
    """Draw one panel a task, with the gain and interval of each system."""
    tasks = list(dict.fromkeys(row.task for row in rows))
    columns = min(_MAX_COLUMNS, len(tasks))
    lines = -(-len(tasks) // columns)
    names = {row.system: wrapped_name(row.system) for row in rows}
    titles = {task: wrapped_name(f"{task} ({_question_count(rows, task)})", 36) for task in tasks}
    most_lines = max(sum(1 + names[row.system].count("\n") for row in rows if row.task == task) for task in tasks)
    most_lines += max(title.count("\n") for title in titles.values())
    size = (1.2 + (2.0 + 0.075 * max(8, _widest(names.values()))) * columns, lines * (0.9 + 0.24 * most_lines))
    # a gain in CIDEr or nats has no common axis with one in points, nor with each other
    share = all(row.scale > 1 for row in rows)
    figure, axes = maker.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False, sharex=share)
    for ax in axes.flat[len(tasks) :]:
        ax.axis("off")
    for task, ax in zip(tasks, axes.flat, strict=False):
        task_rows = [row for row in rows if row.task == task]
        draw_zero_line(ax, vertical=True)
        for y, row in enumerate(task_rows):
            gain, low, high = (value * row.scale for value in (row.gain, row.low, row.high))
            draw_interval(ax, y, gain, low, high, row.role, filled=row.p_holm < SIGNIFICANT)
        ax.set_yticks(range(len(task_rows)), [literal_text(names[row.system]) for row in task_rows])
        ax.set_ylim(len(task_rows) - 0.4, -0.6)
        ax.set_title(literal_text(titles[task]))
        ax.xaxis.set_tick_params(labelbottom=True)
    roles = dict.fromkeys(row.role for row in rows)
    key = "".join(f"; {MARKER_NAMES[ROLE_MARKERS[role]]}: {role}" for role in roles if len(roles) > 1)
    draw_caption(figure, f"gain{_unit(rows)} over the baseline [95%]; filled: Holm-corrected p < 0.05{key}", _SMALL)
    return figure


def _draw_ranks(maker: Any, ranks: list[ControlRank]) -> Any:
    """Draw one panel per system: a marker for each random vector's gain, and below them its own gain with interval."""
    if not ranks:
        raise UserError(f"no system has {FEWEST} random vectors at the same place: run it with control=random:0, …")
    size = (5.2, 0.55 + 1.25 * len(ranks))
    figure, axes = maker.subplots(len(ranks), 1, figsize=size, layout="constrained", squeeze=False, sharex=True)
    for rank, ax in zip(ranks, axes.flat, strict=True):
        row, scale = rank.row, rank.row.scale
        gains = np.array(rank.gains) * scale
        draw_zero_line(ax, vertical=True)
        marks = {"marker": ROLE_MARKERS["control"], "color": ROLE_COLOURS["control"], "s": 22, "alpha": 0.55}
        ax.scatter(gains, 1 - _stacked(gains), linewidths=0, **marks)
        draw_interval(ax, 2.0, row.gain * scale, row.low * scale, row.high * scale, row.role, filled=True)
        ax.set_yticks([1, 2], [f"{len(gains)} random vectors", literal_text(wrapped_name(row.system))])
        ax.set_ylim(2.5, -0.1)
        title = wrapped_name(f"{row.task} (n = {row.n}): p = {1 + rank.as_good}/{1 + len(gains)}", 48)
        ax.set_title(literal_text(title))
        ax.xaxis.set_tick_params(labelbottom=True)
    unit = _unit([rank.row for rank in ranks])
    draw_caption(figure, f"gain{unit} over the baseline; the system's with its 95% interval", _SMALL)
    return figure


def _stacked(gains: Any) -> Any:
    """The vertical offset of each marker, so that markers of nearly equal gains do not overlap."""
    width = max(float(np.ptp(gains)), 1e-9) / 45
    bins = np.round(gains / width)
    levels = np.array([int((bins[:place] == one).sum()) for place, one in enumerate(bins)])
    return levels * min(0.2, 0.9 / max(1, int(levels.max())))


def _draw_maps(maker: Any, maps: list[SearchMap]) -> Any:
    """Draw one row a vector and one column a token target."""
    vectors = list(dict.fromkeys((one.study, one.vector) for one in maps))
    targets = list(dict.fromkeys(one.tokens for one in maps))
    several_studies = len({study for study, _ in vectors}) > 1
    found = {(one.study, one.vector, one.tokens): one for one in maps}
    heatmaps = {key: _heatmap(one, maps) for key, one in found.items()}
    limit = colour_limit(gain for heatmap in heatmaps.values() for gain in heatmap.cells.values())
    width = max(heatmap.columns for heatmap in heatmaps.values())
    height = max(len(heatmap.layers) for heatmap in heatmaps.values())
    size = (1.6 + max(1.7, 0.6 + 0.36 * width) * len(targets), (1.2 + 0.24 * height) * len(vectors))
    figure, axes = maker.subplots(len(vectors), len(targets), figsize=size, layout="constrained", squeeze=False)
    for (study, vector), line in zip(vectors, axes, strict=True):
        for target, ax in zip(targets, line, strict=True):
            key, title = (study, vector, target), ""
            if key in found:
                image = draw_heatmap(ax, heatmaps[key], limit)
                ax.set_ylabel("layer")
                title = f"{target} tokens (n = {found[key].n})"
            else:
                ax.axis("off")
            name = f"{study}: {format_vector_name(vector)}" if several_studies else format_vector_name(vector)
            # the name of a row begins above its first map and may extend over the whole row
            ax.set_title(f"{literal_text(name)}\n{title}" if ax is line[0] else title, fontsize=_SMALL, loc="left")
    draw_colour_bar(figure, image, axes, heatmaps.values())
    if any(one.dropped for one in maps):
        draw_caption(figure, "dotted: dropped before all questions were asked", _SMALL)
    return figure


def _heatmap(one: SearchMap, maps: list[SearchMap]) -> HeatMap:
    """Put a map on axes that are common to all token targets of its vector."""
    same_vector = [other for other in maps if (other.study, other.vector) == (one.study, one.vector)]
    return HeatMap(
        cells={place: 100 * gain for place, gain in one.cells.items()},
        layers=tuple(sorted({layer for other in same_vector for layer in other.layers})),
        alphas=tuple(sorted({alpha for other in same_vector for alpha in other.alphas})),
        best=one.best,
        dropped=one.dropped,
    )


def _colour_value(row: LeaderboardRow | None) -> float:
    """The improvement in points; NaN, which has no colour, for tasks that are not scored in shares."""
    return float("nan") if row is None or row.scale == 1 else row.direction * row.gain * row.scale


def _widest(texts: Iterable[str]) -> int:
    """The length of the longest line, in letters."""
    return max(drawn_length(line) for text in texts for line in text.split("\n"))


def _unit(rows: Iterable[LeaderboardRow]) -> str:
    shares = {row.scale > 1 for row in rows}
    return " in points" if shares == {True} else ", of shares in points," if True in shares else ""


def _question_count(rows: list[LeaderboardRow], task: str) -> str:
    return f"n = {next(row.n for row in rows if row.task == task)}"
