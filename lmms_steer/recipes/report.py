"""`lmms-steer report`: a recipe's results as the paper's tables, next to the gains that the paper reports."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from lmms_steer._util.io import write_atomically
from lmms_steer.recipes.report_checks import incomparable, not_run, published_table
from lmms_steer.recipes.report_rows import ReportRow, read_report
from lmms_steer.recipes.report_scorers import ScorerRow, read_scorers, scorer_table
from lmms_steer.recipes.report_tables import CAPTION, task_tables


def run_report(root: Path, metric: str | None = None) -> Iterator[str]:
    """Write `report.md` and `report.csv` into a recipe's folder.

    Args:
        root: the recipe's folder.
        metric: the score to compare by; None for each task's own.

    Yields:
        The tables, line by line, and what was written.

    Raises:
        UserError: for a folder without evaluations, or one that cannot be written.
    """
    rows, problems = read_report(root, metric)
    text = markdown_report(rows, problems, read_scorers(root))
    write_atomically(root / "report.md", text.encode())
    write_atomically(root / "report.csv", csv_report(rows).encode())
    yield from text.splitlines()
    yield f"written: {root / 'report.md'}, {root / 'report.csv'}"


def markdown_report(rows: Sequence[ReportRow], problems: Sequence[str] = (), scorers: Sequence[ScorerRow] = ()) -> str:
    """The whole report: a table for each task, the published gains, the scorers, and what was not run or compared."""
    notes = [f"* {line}" for line in (*problems, *incomparable(rows), *not_run(rows))]
    parts = [*task_tables(rows), CAPTION, published_table(rows), scorer_table(scorers), "\n".join(notes)]
    return "\n\n".join(filter(None, parts)) + "\n"


def csv_report(rows: Sequence[ReportRow]) -> str:
    """All rows, unrounded."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [field.name for field in fields(ReportRow)])
    writer.writeheader()
    for row in rows:
        values = {**vars(row), "random": " ".join(map(str, row.random))}
        writer.writerow({key: "" if str(value) == "nan" else value for key, value in values.items()})
    return out.getvalue()
