"""The page: one file, no network, everything in it from the runs, escaped."""

import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lmms_steer import __version__
from lmms_steer._util import formatting as words
from lmms_steer.comparison import tables as row_words
from lmms_steer.comparison.leaderboard import Row
from lmms_steer.comparison.page_questions import page_tasks
from lmms_steer.comparison.provenance import provenance
from lmms_steer.comparison.studies import read_maps
from lmms_steer.comparison.systems import System
from lmms_steer.comparison.tables import write_text
from lmms_steer.plots import heatmap as heat


def write_page(
    path: Path,
    systems: dict[str, System],
    rows: list[Row],
    studies: Sequence[Path],
    most: int,
    pictures: str,
    warnings: Sequence[str] = (),
    include_path: Path | None = None,
) -> Iterator[str]:
    """Write it; yields what was left out.

    Args:
        path: the file.
        systems: the baseline first.
        rows: of the board.
        studies: whose maps are shown.
        most: questions a task, at most.
        pictures: ours, all or none.
        warnings: what a reader must not overlook.
        include_path: the user's own folder of tasks, for their pictures.

    Raises:
        UserError: for a study that cannot be read, or a file that cannot be written.
    """
    maps = read_maps(studies)
    tasks = list(page_tasks(systems, most, pictures, include_path))
    left_out = [line for task in tasks for line in _left_out(task)]
    made: dict[tuple[str, str], dict[str, Any]] = {}
    board = {
        "baseline": next(iter(systems)),
        "rows": [_row(row, made) for row in rows],
        "made": list(made.values()),
        "maps": maps,
        "shades": {"loss": heat.LOSS, "gain": heat.GAIN, "deep": heat.DEEP},
        "systems": [{"name": system.name, "role": system.role} for system in systems.values()],
    }
    parts = {name: files("lmms_steer.comparison").joinpath(f"page_assets/{name}") for name in ("page.html", "page.css")}
    parts |= {name: files("lmms_steer.comparison").joinpath(f"page_assets/{name}") for name in _SCRIPTS}
    text = {name: part.read_text(encoding="utf-8") for name, part in parts.items()}
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(text["page.html"])
    write_text(
        page.render(
            title=_title(systems),
            others=len(systems) - 1,
            baseline=board["baseline"],
            # ours, not from a run
            style=Markup(text["page.css"]),
            script=Markup("\n".join(text[name] for name in _SCRIPTS)),
            board=board,
            tasks=[{"task": task["task"], "packed": _packed(task)} for task in tasks],
            left_out=left_out,
            warnings=warnings,
            caption=row_words.CAPTION,
            version=__version__,
            has_maps=bool(maps),
        ),
        path,
    )
    yield from left_out


def _title(systems: dict[str, System]) -> str:
    runs = [run for system in systems.values() for run in system.tasks.values()]
    tasks = list(dict.fromkeys(task for system in systems.values() for task in system.tasks))
    models = {run.results.model for run in runs}
    more = [f"{len(tasks) - 2} more tasks"] if len(tasks) > _MOST_TASKS else tasks[2:]
    *first, last = [*tasks[:2], *more]
    named = f"{', '.join(first)} and {last}" if first else last
    return f"{named} on {models.pop()}" if len(models) == 1 and "" not in models else named


_MOST_TASKS = 3
"""That a title names."""
_SCRIPTS = ("common.js", "board.js", "gains.js", "maps.js", "samples.js")


def _row(row: Row, made: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    for run in row.samples:
        made.setdefault((row.system, run.task), {"system": row.system, "task": run.task, **provenance(run)})
    places = {key: place for place, key in enumerate(made)}
    return {
        **{key: getattr(row, key) for key in ("task", "scope", "system", "role", "n", "refused", "test")},
        **{key: _finite(getattr(row, key) * row.scale) for key in ("score", "gain", "low", "high")},
        **{key: _finite(getattr(row, key)) for key in ("p", "p_holm", "unparsed", "seconds")},
        "fixed": row.fixed,
        "broken": row.broken,
        "made": [places[row.system, run.task] for run in row.samples],
        "told": {
            "score": row_words.format_score(row),
            "gain": row_words.format_gain(row),
            "p": words.format_p(row.p),
            "p_holm": row_words.format_holm(row),
            "n": row_words.format_questions(row),
            "fixed": row_words.format_differing(row),
            "unparsed": words.format_share(row.unparsed),
            "seconds": words.format_seconds(row.seconds),
        },
    }


def _left_out(task: dict[str, Any]) -> Iterator[str]:
    shown = len(task["docs"])
    if shown < task["n"]:
        yield (
            f"{task['task']}: the page has {shown} of {task['n']} questions with their answers, those on which systems"
            " differ first; the others are in the samples files"
        )
    images = sum(bool(doc["image"]) for doc in task["docs"])
    if images < shown and task["no_images"]:
        yield f"{task['task']}: {f'images of {images} of these' if images else 'no images'}, {task['no_images']}"


def _packed(task: dict[str, Any]) -> str:
    """Compressed, and without any character that HTML knows; the page unpacks a task when it is looked at."""
    raw = json.dumps(task, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode()


def _finite(value: float) -> float | None:
    return round(value, 6) if value == value and abs(value) != float("inf") else None  # noqa: PLR0124
