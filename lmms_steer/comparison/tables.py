"""How a row's numbers are written, the same in every output.

The board as a table: terminal, Markdown, LaTeX, CSV, Parquet.
"""

import csv
import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from lmms_steer._util import formatting as words
from lmms_steer._util.formatting import format_number, format_p, format_points
from lmms_steer.comparison.leaderboard import Row
from lmms_steer.comparison.provenance import provenance
from lmms_steer.errors import UserError

CAPTION = (
    "Scores in percent, gains in points against the baseline on the same questions, with 95% intervals. p: McNemar's"
    " mid-p, or sign flips for graded scores, averages and questions that share an image; p (Holm): corrected over all"
    " rows. An asterisk: p (Holm) < 0.05."
)


def format_score(row: Row) -> str:
    """`84.0`."""
    return format_number(row.score * row.scale)


def format_gain(row: Row) -> str:
    """`+1.2 [-0.3, +2.7]`; "" where there is none."""
    if math.isnan(row.gain):
        return ""
    told, low, high = (format_points(x * row.scale) for x in (row.gain, row.low, row.high))
    return f"{told} [{low}, {high}]"


def format_holm(row: Row) -> str:
    """The corrected p, with an asterisk below 0.05."""
    return format_p(row.p_holm) + ("*" if row.p_holm < 0.05 else "")


def format_differing(row: Row) -> str:
    """Answers fixed / broken."""
    return "" if row.fixed is None else f"{row.fixed} / {row.broken}"


def format_questions(row: Row) -> str:
    """`200`, and how many images they share."""
    return f"{row.n}" if row.images is None else f"{row.n} ({row.images} images)"


_COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("system", lambda row: f"{row.system} (control)" if row.role == "control" else row.system),
    ("score", format_score),
    ("gain [95%]", format_gain),
    ("p", lambda row: words.format_p(row.p)),
    ("p (Holm)", format_holm),
    ("n", format_questions),
    ("fixed / broken", format_differing),
    ("unparsed", lambda row: words.format_share(row.unparsed)),
    ("time", lambda row: words.format_seconds(row.seconds)),
)
_LATEX = str.maketrans({character: rf"\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
})  # fmt: skip
_FIELDS: tuple[str, ...] = (
    "task",
    "scope",
    "system",
    "role",
    "n",
    "images",
    "score",
    "gain",
    "low",
    "high",
    "p",
    "p_holm",
    "p_exact",
)
_FIELDS += ("test", "fixed", "broken", "unparsed", "seconds", "refused")


def _by_task(rows: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    for task, found in itertools.groupby(rows, lambda row: row.task):
        listed = list(found)
        yield task if listed[0].scope == "task" else f"{task} ({listed[0].scope})", listed


def rich_table(rows: list[Row]) -> Table:
    """For a terminal: what is significant after the correction is coloured, and marked with an asterisk."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title, _ in (("task", None), *_COLUMNS):
        table.add_column(title, justify="left" if title in ("task", "system") else "right", no_wrap=title != "task")
    for task, found in _by_task(rows):
        for number, row in enumerate(found):
            # a control that gains is no good news
            colour = "yellow" if row.role == "control" else "green" if row.gain > 0 else "red"
            style = colour if row.p_holm < 0.05 else "dim" if row.refused else ""
            cells = [escape(write(row)) for _, write in _COLUMNS]
            table.add_row(escape(task) if number == 0 else "", *cells, style=style, end_section=row is found[-1])
        table.add_row()
    return table


def markdown(rows: list[Row], warnings: Sequence[str] = ()) -> str:
    """A table that GitHub, pandoc and notebooks read."""
    titles = ["task", *(title for title, _ in _COLUMNS)]
    lines = [f"| {' | '.join(titles)} |", f"|---|---|{'---:|' * (len(titles) - 2)}"]
    for task, found in _by_task(rows):
        for row in found:
            cells = [task, *(write(row) for _, write in _COLUMNS)]
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |".replace("*", r"\*"))
    lines += ["", CAPTION.replace("*", r"\*"), *(f"* {line}" for line in (*warnings, *refusal_lines(rows)))]
    return "\n".join(lines) + "\n"


def latex(rows: list[Row], warnings: Sequence[str] = ()) -> str:
    """A table for the booktabs package."""
    titles = " & ".join(title.translate(_LATEX) for title, _ in _COLUMNS)
    lines = ["% \\usepackage{booktabs}", "\\begin{table}", "\\centering", "\\small"]
    lines += [f"\\begin{{tabular}}{{l{'r' * (len(_COLUMNS) - 1)}}}", "\\toprule", f"{titles} \\\\"]
    for task, found in _by_task(rows):
        lines += ["\\midrule", f"\\multicolumn{{{len(_COLUMNS)}}}{{l}}{{\\emph{{{task.translate(_LATEX)}}}}} \\\\"]
        for row in found:
            cells = [write(row).translate(_LATEX) for _, write in _COLUMNS]
            # a minus, not a hyphen; and no optional argument of the line before
            cells[2] = cells[2].replace("-", "$-$").replace("[", "{[}")
            lines.append(" & ".join(cells) + " \\\\")
    caption = " ".join([CAPTION, *(f"{line}." for line in (*warnings, *refusal_lines(rows)))]).translate(_LATEX)
    lines += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{caption}}}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def records(rows: list[Row]) -> list[dict[str, Any]]:
    """One dict a row, unrounded, with the command and the hashes."""
    found = []
    for row in rows:
        made = [provenance(run) for run in row.samples]
        hashes = {
            key: " ".join(dict.fromkeys(one[key] for one in made))
            for key in ("command", "spec", "spec_sha256", "samples_sha256", "results_sha256", "metric")
        }
        vectors = json.dumps({name: sha for one in made for name, sha in one["vectors"].items()})
        found.append({**{field: getattr(row, field) for field in _FIELDS}, **hashes, "vectors": vectors})
    return found


def refusal_lines(rows: list[Row]) -> list[str]:
    """Who was not compared, and why."""
    return [f"not compared: {row.system} on {row.task}: {row.refused}" for row in rows if row.refused]


def write_csv(rows: list[Row], path: Path) -> None:
    """Raises UserError where the file cannot be written."""
    found = records(rows)
    with _opened(path) as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows({key: "" if str(value) == "nan" else value for key, value in one.items()} for one in found)


def write_parquet(rows: list[Row], path: Path) -> None:
    """As the CSV, with types. Raises UserError where the file cannot be written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    _opened(path).close()
    pq.write_table(pa.Table.from_pylist(records(rows)), path)


def write_text(text: str, path: Path) -> None:
    """Raises UserError where the file cannot be written."""
    with _opened(path) as file:
        file.write(text)


def _opened(path: Path) -> Any:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
