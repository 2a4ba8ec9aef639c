"""The leaderboard as a table: terminal, plain text, Markdown and LaTeX."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import StringIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lmms_steer._util.formatting import format_p, format_seconds, format_share
from lmms_steer.comparison.leaderboard import LeaderboardRow
from lmms_steer.comparison.row_notes import difference_lines, single_image_lines
from lmms_steer.comparison.row_texts import (
    SIGNIFICANT,
    format_blank,
    format_divergence,
    format_fixed_broken,
    format_gain,
    format_holm,
    format_questions,
    format_reading,
    format_score,
    format_words,
    format_yes,
    shown_readings,
)

BLANK_TITLE = "blank images"
_CAPTION = (
    "{unit} over the baseline on the same questions, with 95% intervals. p: McNemar's"
    " mid-p, or sign flips for graded scores, averages and questions that share an image; p (Holm): corrected over all"
    " rows. An asterisk: p (Holm) < 0.05."
)
_LATEX_ESCAPES = str.maketrans({character: rf"\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$",
    "∞": r"$\infty$",
})  # fmt: skip


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
_DROPPED_FIRST = ("p", "time", "words", "recall", "empty", "unparsed", "yes", "KL", "fixed / broken", BLANK_TITLE)
"""Columns that a narrow terminal leaves out, after the other readings of the answers, in this order."""
_UNLIMITED = 10_000
"""A width that every table fits into."""


def caption(rows: Sequence[LeaderboardRow]) -> str:
    """What the numbers of a table are."""
    scales = {row.scale for row in rows}
    unit = "Scores in percent, gains in points"
    if scales == {1.0}:
        unit = "Scores as the tasks count them, and gains"
    elif 1.0 in scales:
        unit = "Scores that are shares in percent, their gains in points, and others as the tasks count them; gains"
    text = _CAPTION.format(unit=unit)
    measured = any(row.divergence >= 0 for row in rows)
    return f"{text} KL: how far answers are from the plain model's, in nats." if measured else text


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
        columns.insert(place, ("KL", format_divergence))
    if any(row.blank for row in rows):
        columns.insert(3, (BLANK_TITLE, format_blank))
    if any(row.different for row in rows):
        columns.append(("different", lambda row: row.different))
    return columns


class TerminalTable:
    """The table for a terminal: as many columns as fit, and a line that names the others.

    Args:
        rows: the leaderboard.
    """

    def __init__(self, rows: list[LeaderboardRow]) -> None:
        self.rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What rich prints, within the width that it gives."""
        columns, left_out = _columns(self.rows), []
        while True:
            table = _rich_table(self.rows, columns)
            width = table.__rich_measure__(console, options.update_width(_UNLIMITED)).maximum
            droppable = (*shown_readings(self.rows).values(), *_DROPPED_FIRST)
            title = next((title for title in droppable if title in dict(columns)), None)
            if width <= options.max_width or title is None:
                break
            columns = [column for column in columns if column[0] != title]
            left_out.append(title)
        yield table
        if left_out:
            yield Text(f"too narrow for {', '.join(left_out)}: --html, --csv and a pipe have all columns", "dim")


def plain_text(rows: list[LeaderboardRow]) -> str:
    """The table with all columns, without colours."""
    console = Console(file=StringIO(), width=_UNLIMITED, color_system=None)
    with console.capture() as captured:
        console.print(TerminalTable(rows))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _rich_table(rows: list[LeaderboardRow], columns: Sequence[tuple[str, Callable[[LeaderboardRow], str]]]) -> Table:
    """A table in which significant rows are coloured."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("task", *(title for title, _ in columns)):
        text = title in ("task", "system")
        table.add_column(title, justify="left" if text else "right", no_wrap=not text, overflow="fold")
    for place, (task, task_rows) in enumerate(_by_task(rows)):
        if place:
            table.add_row()
        for number, row in enumerate(task_rows):
            # a gain of a control is not good news
            colour = "yellow" if row.role == "control" else "green" if row.direction * row.gain > 0 else "red"
            style = colour if row.p_holm < SIGNIFICANT else "dim" if row.refused else ""
            cells = [escape(write(row)) for _, write in columns]
            table.add_row(escape(task) if number == 0 else "", *cells, style=style, end_section=row is task_rows[-1])
    return table


def text_table(rows: list[LeaderboardRow]) -> tuple[list[str], list[list[str]]]:
    """Return the titles of the columns, and the cells of each row as plain text."""
    columns = _columns(rows)
    cells = [[task, *(write(row) for _, write in columns)] for task, members in _by_task(rows) for row in members]
    return ["task", *(title for title, _ in columns)], cells


def markdown(rows: list[LeaderboardRow], notes: Sequence[str] = ()) -> str:
    """Return a table that GitHub, pandoc and notebooks read, with caption and notes below."""
    titles, table = text_table(rows)
    lines = [f"| {' | '.join(titles)} |", f"|---|---|{'---:|' * (len(titles) - 2)}"]
    for cells in table:
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |".replace("*", r"\*"))
    lines += ["", caption(rows).replace("*", r"\*"), *(f"* {line}" for line in notes)]
    return "\n".join(lines) + "\n"


def latex(rows: list[LeaderboardRow], notes: Sequence[str] = ()) -> str:
    """Return a table for the booktabs package, with caption and notes as its caption."""
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
    below = " ".join([caption(rows), *(f"{line}." for line in notes)])
    lines += ["\\bottomrule", "\\end{tabular}", f"\\caption{{{below.translate(_LATEX_ESCAPES)}}}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def note_lines(rows: list[LeaderboardRow]) -> list[str]:
    """Return lines below a table: systems that are not compared, what differs, and tasks without intervals."""
    refused = [f"not compared: {row.system} on {row.task}: {row.refused}" for row in rows if row.refused]
    return [*refused, *difference_lines(rows), *single_image_lines(rows)]


def _by_task(rows: list[LeaderboardRow]) -> Iterator[tuple[str, list[LeaderboardRow]]]:
    for task, group in itertools.groupby(rows, lambda row: row.task):
        task_rows = list(group)
        scope = task_rows[0].scope
        yield task if scope == "task" else f"{task} ({scope})", task_rows
