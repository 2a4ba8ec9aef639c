"""Write the page of a comparison: one HTML file that needs no network and shows everything from a run as text."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lmms_steer._util.formatting import format_p, format_seconds, format_share
from lmms_steer._util.io import write_text
from lmms_steer.comparison import row_texts, tables
from lmms_steer.comparison.control_ranks import ControlRank
from lmms_steer.comparison.leaderboard import LeaderboardRow
from lmms_steer.comparison.page_frame import packed, render_page
from lmms_steer.comparison.page_questions import PageTask, page_tasks
from lmms_steer.comparison.provenance import run_provenance
from lmms_steer.comparison.row_notes import difference_lines, single_image_lines
from lmms_steer.comparison.studies import SearchMap, read_maps
from lmms_steer.comparison.systems import BLANK_SUFFIX, System
from lmms_steer.plots.heatmap import DEEP, GAIN, LOSS

_ASSETS = "comparison/page_assets"
_SCRIPTS = ("common.js", "board.js", "gains.js", "maps.js", "samples.js")
_TITLE_TASKS = 3
"""The largest number of tasks that the title names."""


def write_page(
    path: Path,
    systems: dict[str, System],
    rows: list[LeaderboardRow],
    studies: Sequence[Path],
    most: int,
    pictures: str,
    warnings: Sequence[str] = (),
    include_path: Path | None = None,
    ranks: Sequence[ControlRank] = (),
) -> Iterator[str]:
    """Write the page.

    Args:
        path: the file.
        systems: name ▸ system, the baseline first.
        rows: of the leaderboard.
        studies: folders of searches, for their heat maps.
        most: the largest number of questions of a task.
        pictures: which tasks' images to show: ours, all or none.
        warnings: shown at the top.
        include_path: a folder of the user's own tasks, for their images.
        ranks: of systems among random vectors.

    Yields:
        What was left out, a line each.

    Raises:
        UserError: for a study that cannot be read, or a file that cannot be written.
    """
    maps = read_maps(studies)
    refused = {(row.system, row.task) for row in rows if row.refused}
    tasks = list(page_tasks(systems, most, pictures, include_path, refused))
    left_out = [line for task in tasks for line in _left_out(task)]
    baseline = next(iter(systems))
    axes = {_axis(row) for row in rows if not math.isnan(row.gain)}
    text = render_page(
        f"{_ASSETS}/page.html",
        _title(systems),
        _page_data(baseline, systems, rows, maps),
        [f"{_ASSETS}/page.css"],
        [f"{_ASSETS}/{name}" for name in _SCRIPTS],
        others=len({row.system for row in rows}) - 1,
        baseline=baseline,
        tasks=[{"task": task.task, "packed": packed(_task_json(task))} for task in tasks],
        left_out=left_out,
        warnings=warnings,
        readings=row_texts.shown_readings(rows),
        caption=tables.caption(rows),
        blank=any(row.blank for row in rows),
        different=any(row.different for row in rows),
        notes=[*difference_lines(rows), *single_image_lines(rows)],
        ranks=list(map(str, ranks)),
        has_maps=bool(maps),
        has_gains=bool(axes),
        one_axis=len(axes) == 1,
    )
    write_text(text, path)
    yield from left_out


def _title(systems: dict[str, System]) -> str:
    """`a, b and c on MODEL`; without the model if the runs have several or do not name it."""
    runs = [run for system in systems.values() for run in system.tasks.values()]
    tasks = list(dict.fromkeys(task for system in systems.values() for task in system.tasks))
    models = {run.results.model for run in runs}
    others = [f"{len(tasks) - 2} more tasks"] if len(tasks) > _TITLE_TASKS else tasks[2:]
    *first, last = [*tasks[:2], *others]
    named = f"{', '.join(first)} and {last}" if first else last
    return f"{named} on {models.pop()}" if len(models) == 1 and "" not in models else named


def _left_out(task: PageTask) -> Iterator[str]:
    shown = len(task.questions)
    if shown < task.n:
        yield (
            f"{task.task}: the page has {shown} of {task.n} questions with their answers, those on which systems"
            " differ first; the others are in the samples files"
        )
    if task.refused:
        yield f"{task.task}: no answers of {', '.join(task.refused)}, not compared with the baseline"
    images = sum(bool(question.image) for question in task.questions)
    if images < shown and task.no_images:
        yield f"{task.task}: {f'images of {images} of these' if images else 'no images'}, {task.no_images}"


def _page_data(
    baseline: str, systems: dict[str, System], rows: list[LeaderboardRow], maps: list[SearchMap]
) -> dict[str, Any]:
    """The JSON that the page's scripts read: everything but questions and answers."""
    own = {(row.system, run.task): run for row in rows for run in row.samples}
    blank = {(f"{row.system}{BLANK_SUFFIX}", run.task): run for row in rows if row.blank for run in row.blank.samples}
    provenance = {
        key: {"system": key[0], "task": key[1], **vars(run_provenance(run))} for key, run in {**own, **blank}.items()
    }
    index = {key: number for number, key in enumerate(provenance)}

    def made(row: LeaderboardRow) -> list[int]:
        beside = row.blank.samples if row.blank else ()
        shown = [(row.system, run) for run in row.samples] + [(f"{row.system}{BLANK_SUFFIX}", run) for run in beside]
        return [index[name, run.task] for name, run in shown]

    return {
        "baseline": baseline,
        "readings": list(row_texts.shown_readings(rows).items()),
        "rows": [_row_json(row, made(row)) for row in rows],
        "made": list(provenance.values()),
        "maps": [_map_json(one) for one in maps],
        "shades": {"loss": LOSS, "gain": GAIN, "deep": DEEP},
        "systems": [{"name": system.name, "role": system.role} for system in systems.values()],
    }


def _row_json(row: LeaderboardRow, provenance: list[int]) -> dict[str, Any]:
    """A row's numbers, scaled as they are shown, and under `told` as texts; `provenance`: indices into `made`."""
    return {
        "task": row.task,
        "scope": row.scope,
        "system": row.system,
        "role": row.role,
        "n": row.n,
        "refused": row.refused,
        "different": row.different,
        "differences": [vars(one) for one in row.differences],
        "test": row.test,
        "direction": row.direction,
        "axis": _axis(row),
        "score": _finite(row.score * row.scale),
        "gain": _finite(row.gain * row.scale),
        # an infinite interval is not drawn
        "low": _finite((row.gain if math.isinf(row.low) else row.low) * row.scale),
        "high": _finite((row.gain if math.isinf(row.high) else row.high) * row.scale),
        "p": _finite(row.p),
        "p_holm": _finite(row.p_holm),
        "unparsed": _finite(row.unparsed),
        "empty": _finite(row.empty),
        "yes": _finite(row.yes),
        "words": _finite(row.words),
        "recall": _finite(row.recall),
        "divergence": _finite(row.divergence),
        "blank": _finite(row.blank.score * row.scale) if row.blank else None,
        **{name: _finite(reading.score * row.scale) for name, reading in row.readings.items()},
        "seconds": _finite(row.seconds),
        "fixed": row.fixed,
        "broken": row.broken,
        "made": provenance,
        "told": {
            "score": row_texts.format_score(row),
            **{name: row_texts.format_reading(row, name) for name in row.readings},
            "gain": row_texts.format_gain(row),
            "p": format_p(row.p),
            "p_holm": row_texts.format_holm(row),
            "n": row_texts.format_questions(row),
            "fixed": row_texts.format_fixed_broken(row),
            "unparsed": format_share(row.unparsed),
            "empty": format_share(row.empty),
            "yes": row_texts.format_yes(row),
            "words": row_texts.format_words(row),
            "recall": format_share(row.recall),
            "divergence": row_texts.format_divergence(row),
            "blank": row_texts.format_blank(row),
            "seconds": format_seconds(row.seconds),
        },
    }


def _map_json(one: SearchMap) -> dict[str, Any]:
    """A map with its gains as layers x alphas, null where nothing was measured."""
    return {
        "study": one.study,
        "task": one.task,
        "vector": one.vector,
        "tokens": one.tokens,
        "n": one.n,
        "layers": one.layers,
        "alphas": one.alphas,
        "gains": [[one.cells.get((layer, alpha)) for alpha in one.alphas] for layer in one.layers],
        "damage": [[one.damage.get((layer, alpha)) for alpha in one.alphas] for layer in one.layers],
        "dropped": [[(layer, alpha) in one.dropped for alpha in one.alphas] for layer in one.layers],
        "best": one.best,
        "limit": one.limit,
    }


def _task_json(task: PageTask) -> dict[str, Any]:
    return {
        "task": task.task,
        "n": task.n,
        "better": task.direction,
        "graded": task.graded,
        "no_images": task.no_images,
        "systems": task.systems,
        "docs": [
            {
                "id": question.doc_id,
                "answers": question.answers,
                "by": question.by,
                "target": question.target,
                "meant": question.meaning,
                "question": question.question,
                "image": question.image,
            }
            for question in task.questions
        ],
    }


def _axis(row: LeaderboardRow) -> str:
    """What the row's gain can be drawn beside: all others in points, else only others of its task."""
    return "points" if row.scale > 1 else f"scores of {row.task}"


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None
