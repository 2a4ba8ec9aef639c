"""The page of a board: one static HTML file that needs no network and shows everything from an entry as text."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_steer._util.io import write_atomically
from lmms_steer.board.checks import FAILED, OFF, checks
from lmms_steer.board.entry import ENTRIES
from lmms_steer.board.reading import Board
from lmms_steer.board.row import BoardRow
from lmms_steer.comparison.page_frame import packed, render_page

SITE = "site"
PART = 500
"""Rows whose details the page unpacks together when one of them is shown."""
_MAX_REFUSALS = 500
"""Most refused entries that the page lists."""
_COLUMNS = (
    "place",
    "model",
    "task",
    "system",
    "role",
    "concept",
    "method",
    "n",
    "score",
    "gain",
    "low",
    "high",
    "p",
    "kl",
)
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""Characters that make a spreadsheet take a text for a formula."""


def build_page(board: Path, read: Board, output: Path | None = None) -> Iterator[str]:
    """Write `index.html` and `leaderboard.csv`.

    Args:
        board: its folder.
        read: the board as it was read; entries that are refused are listed below the table.
        output: the folder to write to; default: `site` in the board's.

    Yields:
        A line for each file.

    Raises:
        UserError: if a file cannot be written.
    """
    folder = output or board / SITE
    rows = read.shown
    for name, content in (("index.html", page_html(read)), ("leaderboard.csv", table_csv(rows))):
        path = write_atomically(folder / name, content.encode("utf-8", "surrogatepass"))
        yield f"wrote {path}: {len(rows)} rows, {max(1, round(len(content) / 1e3)):,} kB"


def page_html(board: Board) -> str:
    """The page."""
    rows = board.shown
    scores = {row.place: row.score for row in rows}
    refused = list(board.refusals())
    repository = board.rules.repository
    return render_page(
        "board/assets/page.html",
        board.rules.title,
        {
            "columns": [*_COLUMNS, "percent", "direction", "base", "control", "controlSystem", "controlKind", "failed"],
            "part": PART,
            "repository": f"{repository}/tree/HEAD/{ENTRIES}/" if repository else "",
            "checks": {name: checks.get(name).description for name in _checks(board)},
        },
        ["comparison/page_assets/page.css", "board/assets/board.css"],
        ["comparison/page_assets/common.js", "board/assets/board.js"],
        entries=len(rows),
        tasks=len({row.task for row in rows}),
        models=len({row.model for row in rows}),
        packed=packed([_summary(row, scores) for row in rows]),
        details=[packed([_details(row) for row in rows[at : at + PART]]) for at in range(0, len(rows), PART)],
        refused=refused[:_MAX_REFUSALS],
        more_refused=max(0, len(refused) - _MAX_REFUSALS),
        checks=[(name, board.rules.checks[name], checks.get(name).description) for name in _checks(board)],
        damage=any(row.kl is not None for row in rows),
    )


def table_csv(rows: Sequence[BoardRow]) -> str:
    """All rows for a spreadsheet. A text that it would take for a formula has an apostrophe in front."""
    text = io.StringIO()
    names = [*_COLUMNS, "fixed", "broken", "unparsed", "by", "added", "baseline", "spec", "command"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "failed"])
    for row in rows:
        values = [getattr(row, name) for name in names]
        writer.writerow([_cell(value) for value in (*values, " ".join(_failed(row)))])
    return text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULAS) else value
    return "" if value is None else value


def _checks(board: Board) -> list[str]:
    return [name for name in checks.names() if board.rules.checks.get(name) != OFF]


def _failed(row: BoardRow) -> list[str]:
    return [name for name, (status, _) in row.outcomes.items() if status == FAILED]


def _summary(row: BoardRow, scores: Mapping[str, float]) -> list[Any]:
    """What the table needs of a row, in the order of the page's `columns`."""
    kind, (system, gain) = max(
        row.controls.items(), key=lambda item: row.direction * item[1][1], default=("", ("", None))
    )
    values = [_rounded(getattr(row, name)) for name in _COLUMNS]
    return [
        *values,
        row.percent,
        row.direction,
        _rounded(scores.get(row.baseline)),
        _rounded(gain),
        system,
        kind,
        _failed(row),
    ]


def _details(row: BoardRow) -> dict[str, Any]:
    return {
        "command": row.command,
        "spec": row.spec,
        "by": row.by,
        "added": row.added,
        "about": row.about,
        "metric": row.metric,
        "fixed": row.fixed,
        "broken": row.broken,
        "unparsed": _rounded(row.unparsed),
        "baseline": row.baseline,
        "hashes": row.hashes,
        "versions": row.versions,
        "outcomes": row.outcomes,
        "controls": {kind: [system, _rounded(gain)] for kind, (system, gain) in row.controls.items()},
    }


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
