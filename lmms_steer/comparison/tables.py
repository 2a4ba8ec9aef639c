"""Write the leaderboard as a table: terminal, Markdown, LaTeX, CSV and Parquet."""

import csv
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TextIO

from rich.markup import escape
from rich.table import Table

from lmms_steer._util.formatting import format_number, format_p, format_points, format_seconds, format_share
from lmms_steer.comparison.leaderboard import LeaderboardRow, OtherReading
from lmms_steer.comparison.provenance import RunProvenance, run_provenance
from lmms_steer.comparison.row_notes import difference_lines
from lmms_steer.comparison.samples import READINGS
from lmms_steer.errors import UserError, reason

SIGNIFICANT = 0.05
BLANK_TITLE = "blank images"
DIVERGENCE_TITLE = "KL"
CAPTION = (
    "Scores in percent, gains in points over the baseline on the same questions, with 95% intervals. p: McNemar's"
    " mid-p, or sign flips for graded scores, averages and questions that share an image; p (Holm): corrected over all"
    " rows. An asterisk: p (Holm) < 0.05."
)
_LATEX_ESCAPES = str.maketrans({character: rf"\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
})  # fmt: skip


@dataclass(frozen=True)
class LeaderboardRecord:
    """A row of the CSV and Parquet files: unrounded numbers, with the commands and hashes behind them.

    The fields are the columns, in their order. Those up to `refused` are `LeaderboardRow`'s; `blank_…` are its row with
    blank images. The others are `RunProvenance`'s; a group or tag has several values, separated by spaces.

    Attributes:
        vectors: JSON, name ▸ sha256.
        readings: JSON, name of `READINGS` ▸ `OtherReading`'s fields.
        differences: JSON, what differs from the baseline: a list of objects with kind, key, baseline and run.
    """

    task: str
    scope: str
    system: str
    role: str
    n: int
    images: int | None
    score: float
    gain: float
    low: float
    high: float
    p: float
    p_holm: float
    p_exact: float
    test: str
    fixed: int | None
    broken: int | None
    unparsed: float
    empty: float
    yes: float
    yes_labels: float
    words: float
    recall: float
    divergence: float
    blank_score: float
    blank_gain: float
    blank_low: float
    blank_high: float
    seconds: float
    refused: str
    command: str
    spec: str
    spec_sha256: str
    samples_sha256: str
    results_sha256: str
    metric: str
    vectors: str
    readings: str
    differences: str


def leaderboard_record(row: LeaderboardRow) -> LeaderboardRecord:
    """Return a row with its provenance."""
    runs = [run_provenance(run) for run in row.samples]

    def joined(value: Callable[[RunProvenance], str]) -> str:
        return " ".join(dict.fromkeys(map(value, runs)))

    return LeaderboardRecord(
        task=row.task,
        scope=row.scope,
        system=row.system,
        role=row.role,
        n=row.n,
        images=row.images,
        score=row.score,
        gain=row.gain,
        low=row.low,
        high=row.high,
        p=row.p,
        p_holm=row.p_holm,
        p_exact=row.p_exact,
        test=row.test,
        fixed=row.fixed,
        broken=row.broken,
        unparsed=row.unparsed,
        empty=row.empty,
        yes=row.yes,
        yes_labels=row.yes_labels,
        words=row.words,
        recall=row.recall,
        divergence=row.divergence,
        blank_score=row.blank.score if row.blank else math.nan,
        blank_gain=row.blank.gain if row.blank else math.nan,
        blank_low=row.blank.low if row.blank else math.nan,
        blank_high=row.blank.high if row.blank else math.nan,
        seconds=row.seconds,
        refused=row.refused,
        command=joined(lambda run: run.command),
        spec=joined(lambda run: run.spec),
        spec_sha256=joined(lambda run: run.spec_sha256),
        samples_sha256=joined(lambda run: run.samples_sha256),
        results_sha256=joined(lambda run: run.results_sha256),
        metric=joined(lambda run: run.metric),
        vectors=json.dumps({name: sha256 for run in runs for name, sha256 in run.vectors.items()}),
        readings=json.dumps({name: _finite_fields(reading) for name, reading in row.readings.items()}),
        differences=json.dumps([vars(one) for one in row.differences]),
    )


def format_score(row: LeaderboardRow) -> str:
    """`84.0`."""
    return format_number(row.score * row.scale)


def format_gain(row: LeaderboardRow) -> str:
    """`+1.2 [-0.3, +2.7]`; "" where there is no gain."""
    if math.isnan(row.gain):
        return ""
    gain, low, high = (format_points(value * row.scale) for value in (row.gain, row.low, row.high))
    return f"{gain} [{low}, {high}]"


def format_blank(row: LeaderboardRow) -> str:
    """`49.0, +0.5 [-0.4, +1.4]`: score and gain with blank images; "" where no run had them."""
    if row.blank is None:
        return ""
    return ", ".join(filter(None, (format_score(shown := replace(row.blank, scale=row.scale)), format_gain(shown))))


def format_reading(row: LeaderboardRow, name: str) -> str:
    """`81.2 (+0.4), 9 differ`: score, gain and number of answers that differ by another reading; "" without one."""
    if name not in row.readings:
        return ""
    reading = row.readings[name]
    points = "" if math.isnan(reading.gain) else f" ({format_points(reading.gain * row.scale)})"
    count = reading.lost + reading.won
    return f"{format_number(reading.score * row.scale)}{points}{f', {count} differ' if count else ''}"


def shown_readings(rows: Sequence[LeaderboardRow]) -> dict[str, str]:
    """Name ▸ title of the readings that get a column; the paper's scorer only where it scores an answer differently."""
    found = [name for name in READINGS if any(name in row.readings for row in rows)]
    differs = any(row.readings["paper"].lost + row.readings["paper"].won for row in rows if "paper" in row.readings)
    titles = {name: "paper's scorer" if name == "paper" else f"{name} reading" for name in found}
    return {name: title for name, title in titles.items() if name != "paper" or differs}


def _finite_fields(reading: OtherReading) -> dict[str, float]:
    return {name: value for name, value in vars(reading).items() if math.isfinite(value)}


def format_holm(row: LeaderboardRow) -> str:
    """The corrected p, with an asterisk if it is significant."""
    return format_p(row.p_holm) + ("*" if row.p_holm < SIGNIFICANT else "")


def format_fixed_broken(row: LeaderboardRow) -> str:
    """`15 / 5`: questions fixed and broken; "" for a system that is not compared."""
    return "" if row.fixed is None else f"{row.fixed} / {row.broken}"


def format_yes(row: LeaderboardRow) -> str:
    """`62.0% (of 50.0%)`: the share of answers that say yes, and of labels; "" where the answers are not yes or no."""
    return "" if math.isnan(row.yes) else f"{format_share(row.yes)} (of {format_share(row.yes_labels)})"


def format_words(row: LeaderboardRow) -> str:
    """`42.3`: the mean length of an answer in words; "" where answers are no text."""
    return "" if math.isnan(row.words) else format_number(row.words)


def format_divergence(row: LeaderboardRow) -> str:
    """`0.31`: nats; "" where it was not measured."""
    return "" if math.isnan(row.divergence) else "∞" if math.isinf(row.divergence) else f"{row.divergence:.2f}"


def format_questions(row: LeaderboardRow) -> str:
    """`200`, and the number of images if questions share them: `200 (50 images)`."""
    return f"{row.n}" if row.images is None else f"{row.n} ({row.images} images)"


_COLUMNS: tuple[tuple[str, Callable[[LeaderboardRow], str]], ...] = (
    ("system", lambda row: f"{row.system} (control)" if row.role == "control" else row.system),
    ("score", format_score),
    ("gain [95%]", format_gain),
    ("p", lambda row: format_p(row.p)),
    ("p (Holm)", format_holm),
    ("n", format_questions),
    ("fixed / broken", format_fixed_broken),
    ("unparsed", lambda row: format_share(row.unparsed)),
    ("time", lambda row: format_seconds(row.seconds)),
)
"""title ▸ how a row is written, after the task's own column."""


def _columns(rows: list[LeaderboardRow]) -> list[tuple[str, Callable[[LeaderboardRow], str]]]:
    """Return the columns, with those that only some leaderboards need."""
    columns = list(_COLUMNS)
    columns[3:3] = [(title, partial(format_reading, name=name)) for name, title in shown_readings(rows).items()]
    place = [title for title, _ in columns].index("unparsed") + 1
    if any(row.empty > 0 for row in rows):
        columns.insert(place, ("empty", lambda row: format_share(row.empty)))
    if any(row.yes >= 0 for row in rows):
        columns.insert(place, ("yes", format_yes))
    if any(row.recall >= 0 for row in rows):
        columns.insert(place, ("words", format_words))
        columns.insert(place, ("recall", lambda row: format_share(row.recall)))
    if any(row.divergence >= 0 for row in rows):
        columns.insert(place, (DIVERGENCE_TITLE, format_divergence))
    if any(row.blank for row in rows):
        columns.insert(3, (BLANK_TITLE, format_blank))
    if any(row.different for row in rows):
        columns.append(("different", lambda row: row.different))
    return columns


def rich_table(rows: list[LeaderboardRow]) -> Table:
    """Return a table for a terminal; significant rows are coloured."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    columns = _columns(rows)
    for title in ("task", *(title for title, _ in columns)):
        table.add_column(title, justify="left" if title in ("task", "system") else "right", no_wrap=title != "task")
    for task, task_rows in _by_task(rows):
        for number, row in enumerate(task_rows):
            # a gain of a control is not good news
            colour = "yellow" if row.role == "control" else "green" if row.gain > 0 else "red"
            style = colour if row.p_holm < SIGNIFICANT else "dim" if row.refused else ""
            cells = [escape(write(row)) for _, write in columns]
            table.add_row(escape(task) if number == 0 else "", *cells, style=style, end_section=row is task_rows[-1])
        table.add_row()
    return table


def text_table(rows: list[LeaderboardRow]) -> tuple[list[str], list[list[str]]]:
    """Return the titles of the columns, and the cells of each row as plain text."""
    columns = _columns(rows)
    cells = [[task, *(write(row) for _, write in columns)] for task, members in _by_task(rows) for row in members]
    return ["task", *(title for title, _ in columns)], cells


def markdown(rows: list[LeaderboardRow], warnings: Sequence[str] = ()) -> str:
    """Return a table that GitHub, pandoc and notebooks read, with caption and warnings below."""
    titles, table = text_table(rows)
    lines = [f"| {' | '.join(titles)} |", f"|---|---|{'---:|' * (len(titles) - 2)}"]
    for cells in table:
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |".replace("*", r"\*"))
    lines += ["", CAPTION.replace("*", r"\*"), *(f"* {line}" for line in (*warnings, *note_lines(rows)))]
    return "\n".join(lines) + "\n"


def latex(rows: list[LeaderboardRow], warnings: Sequence[str] = ()) -> str:
    """Return a table for the booktabs package, with caption and warnings as its caption."""
    columns = _columns(rows)
    titles = " & ".join(title.translate(_LATEX_ESCAPES) for title, _ in columns)
    with_gains = ("gain [95%]", BLANK_TITLE, *shown_readings(rows).values())
    lines = ["% \\usepackage{booktabs}", "\\begin{table}", "\\centering", "\\small"]
    lines += [f"\\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}", "\\toprule", f"{titles} \\\\"]
    for task, task_rows in _by_task(rows):
        title = task.translate(_LATEX_ESCAPES)
        lines += ["\\midrule", f"\\multicolumn{{{len(columns)}}}{{l}}{{\\emph{{{title}}}}} \\\\"]
        for row in task_rows:
            cells = [write(row).translate(_LATEX_ESCAPES) for _, write in columns]
            # a minus instead of a hyphen, and braces, lest the bracket be read as an argument of the line before
            cells = [
                cell.replace("-", "$-$").replace("[", "{[}") if title in with_gains else cell
                for cell, (title, _) in zip(cells, columns, strict=True)
            ]
            lines.append(" & ".join(cells) + " \\\\")
    caption = " ".join([CAPTION, *(f"{line}." for line in (*warnings, *note_lines(rows)))])
    lines += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{caption.translate(_LATEX_ESCAPES)}}}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def note_lines(rows: list[LeaderboardRow]) -> list[str]:
    """Return a line for each system that is not compared on a task, and lines for what differs from the baseline."""
    refused = [f"not compared: {row.system} on {row.task}: {row.refused}" for row in rows if row.refused]
    return [*refused, *difference_lines(rows)]


def write_csv(rows: list[LeaderboardRow], path: Path) -> None:
    """Write all rows, unrounded.

    Raises:
        UserError: if the file cannot be written.
    """
    with _open_for_writing(path) as file:
        writer = csv.DictWriter(file, [column.name for column in fields(LeaderboardRecord)])
        writer.writeheader()
        for row in rows:
            values = vars(leaderboard_record(row))
            writer.writerow({key: "" if str(value) == "nan" else value for key, value in values.items()})


def write_parquet(rows: list[LeaderboardRow], path: Path) -> None:
    """Write the columns of the CSV with their types.

    Raises:
        UserError: if the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _open_for_writing(path).close()
    pq.write_table(pa.Table.from_pylist([vars(leaderboard_record(row)) for row in rows]), path)


def write_text(text: str, path: Path) -> None:
    """Write a text file, and the folders above it.

    Raises:
        UserError: if the file cannot be written.
    """
    with _open_for_writing(path) as file:
        file.write(text)


def _by_task(rows: list[LeaderboardRow]) -> Iterator[tuple[str, list[LeaderboardRow]]]:
    for task, group in itertools.groupby(rows, lambda row: row.task):
        task_rows = list(group)
        scope = task_rows[0].scope
        yield task if scope == "task" else f"{task} ({scope})", task_rows


def _open_for_writing(path: Path) -> TextIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {reason(error)}") from error
