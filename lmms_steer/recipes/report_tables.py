"""The tables of a report, in Markdown: for each task models x methods x token targets, a column a concept."""

import math
import re
from collections.abc import Iterator, Sequence

from lmms_steer._util.formatting import format_number, format_points
from lmms_steer.recipes.published import METHODS, MODELS, TARGETS, TASKS
from lmms_steer.recipes.report_rows import ReportRow

SIGNIFICANT = 0.05
CAPTION = (
    "Score of the baseline in percent; all else are gains over it in points on the same questions, with 95% intervals."
    " Scores that are no shares of 1 are shown as they are."
    " After a semicolon: the gains of random vectors of the same norms that went through the same choice. An asterisk:"
    " p < 0.05, corrected over all systems of a model's study (Holm)."
)
_NO_VECTOR = "no vector"


def task_tables(rows: Sequence[ReportRow]) -> Iterator[str]:
    """A table for each task, in the paper's order and then in that of the rows.

    Studies that ask the same task share its table, unless they fill a cell of it with different numbers.
    """
    order = [task for one in TASKS for task in one.questions]
    for task in dict.fromkeys([*order, *(row.task for row in rows)]):
        tables = _without_conflicts([row for row in rows if row.task == task])
        for own in tables:
            counts = "/".join(map(str, dict.fromkeys(row.n for row in own)))
            study = f"study {own[0].study}, " if len(tables) > 1 else ""
            title = f"## {own[0].title} (`{task}`, {study}{counts} questions, {own[0].metric})"
            yield "\n".join([title, "", *_table(own)])


def format_gain(row: ReportRow) -> str:
    """`+4.7 [+0.7, +8.9]*; -0.7`: the gain, its interval, and those of random vectors; the score of a baseline."""
    if math.isnan(row.gain):
        return format_number(row.score * row.scale)
    gain, low, high = (format_points(value * row.scale) for value in (row.gain, row.low, row.high))
    random = ", ".join(format_points(value * row.scale) for value in row.random)
    return f"{gain} [{low}, {high}]{'*' if row.p_holm < SIGNIFICANT else ''}{f'; {random}' if random else ''}"


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table whose columns line up as plain text; the first row has the titles."""
    escaped = [[re.sub(r"([*|<`])", r"\\\1", cell) for cell in row] for row in cells]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in escaped]
    rule = " | ".join("-" * width for width in widths)
    return [f"| {line} |" for line in (lines[0], rule, *lines[1:])]


def _without_conflicts(rows: Sequence[ReportRow]) -> list[list[ReportRow]]:
    """A task's rows as one table, or one for each study where a cell would have several contents; none of no rows."""
    cells: dict[tuple[str, ...], set[str]] = {}
    for row in rows:
        cells.setdefault((row.model, row.method, row.target, row.concept), set()).add(format_gain(row))
    if all(len(contents) == 1 for contents in cells.values()):
        return [list(rows)] if rows else []
    return [[row for row in rows if row.study == study] for study in dict.fromkeys(row.study for row in rows)]


def _table(rows: Sequence[ReportRow]) -> list[str]:
    concepts = list(dict.fromkeys(row.concept for row in rows if row.concept))
    titles = ["model", "method", "target", _NO_VECTOR, *concepts]
    keys = dict.fromkeys((row.model, row.method, row.target) for row in rows)
    cells = {(row.model, row.method, row.target, row.concept): format_gain(row) for row in rows}
    lines = [
        [*key, *(cells.get((*key, concept), "") for concept in ("", *concepts))] for key in sorted(keys, key=_place)
    ]
    return aligned([titles, *lines])


def _place(key: tuple[str, str, str]) -> tuple[int, ...]:
    """The place of a row: models, methods and targets in the paper's order, what has no vector before them."""
    orders = (tuple(MODELS), ("baseline", "prompting", "answer bias", *METHODS), TARGETS)
    return tuple(order.index(name) if name in order else len(order) for name, order in zip(key, orders, strict=True))
