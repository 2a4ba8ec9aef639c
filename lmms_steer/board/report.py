"""`lmms-steer leaderboard check`: what the checks found, as lines and as a Markdown table."""

from collections.abc import Iterator
from pathlib import Path

from lmms_steer._util.io import write_text
from lmms_steer.board.checks import FAILED, OFF, PASSED, UNKNOWN, checks
from lmms_steer.board.reading import Board
from lmms_steer.board.row import BoardRow

_MARKS = {PASSED: "✓", FAILED: "✗", UNKNOWN: "?"}


def report_lines(board: Board, every: bool = False) -> Iterator[str]:
    """Yield a line for each entry that is refused, for each other failed check, and for the whole.

    Args:
        board: as it was read.
        every: also for what passed and what could not be checked.
    """
    for place, reason in board.refusals():
        yield f"refused: {place}: {reason}"
    for row in board.rows:
        for name, (status, detail) in row.outcomes.items():
            if status == FAILED and name not in row.refused:
                yield f"shown: {row.place}: {name}: {detail}"
            elif every and status in (PASSED, UNKNOWN):
                yield f"{status}: {row.place}: {name}{f': {detail}' if detail else ''}"
    refused = len(list(board.refusals()))
    total = len(board.rows) + len(board.unreadable)
    entries = f"{total} entr{'y' if total == 1 else 'ies'}"
    others = f", {board.unchanged} unchanged since the last check" if board.unchanged else ""
    yield f"{entries}, {refused} refused, {board.checked} checked{others}"


def write_report(board: Board, path: Path) -> None:
    """Write a Markdown table of all entries and checks, such as for a comment on a pull request.

    Raises:
        UserError: if the file cannot be written.
    """
    names = [name for name in checks.names() if board.rules.checks.get(name) != OFF]
    lines = [f"| entry | gain [95%] | {' | '.join(names)} |", f"|---|---:|{':-:|' * len(names)}"]
    for row in board.rows:
        marks = (_MARKS.get(row.outcomes.get(name, ("",))[0], "") for name in names)
        lines.append(f"| {_cell(row.place)} | {_gain(row)} | {' | '.join(marks)} |")
    lines += ["", *(f"* refused: {_cell(place)}: {_cell(reason)}" for place, reason in board.refusals())]
    described = (f"`{name}` ({board.rules.checks[name]}): {checks.get(name).description}" for name in names)
    lines += ["", *(f"* {line}" for line in described)]
    write_text("\n".join(lines) + "\n", path)


def _gain(row: BoardRow) -> str:
    if row.gain is None:
        return ""
    scale = 100 if row.percent else 1
    if row.low is None or row.high is None:
        return f"{scale * row.gain:+.1f} [-∞, +∞]"
    return f"{scale * row.gain:+.1f} [{scale * row.low:+.1f}, {scale * row.high:+.1f}]"


def _cell(text: str) -> str:
    """A text that Markdown shows as it is."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+!|~@" else c for c in escaped)
