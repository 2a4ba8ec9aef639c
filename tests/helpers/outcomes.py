"""How architectures were steered, as sections of a page: written by the matrices, and read back from the page."""

import re
import textwrap
from collections.abc import Iterator, Sequence

Rows = dict[str, dict[str, str]]
"""Architecture ▸ column ▸ `exact`, `KIND: why`, or empty where nothing was run. An architecture that was not run has
the key `all` instead: `refused: why` or `not made: why`."""

REFUSED, NOT_MADE = "refused", "not made"
TITLES = {REFUSED: "Refused", NOT_MADE: "Not tried"}
EXCEPTIONS = "Exceptions"
EXACT = re.compile(r"^Exact in every column(?: but (.*), which they do not take)?:\n\n((?:.+\n)+)", re.MULTILINE)


def sections(rows: Rows, columns: Sequence[str], level: str = "##") -> list[str]:
    """The lines of the counts, of what was refused, of the names without an exception, and of the exceptions.

    Args:
        rows: the outcomes.
        columns: their columns, in order.
        level: the marks of a heading.
    """
    not_run = {kind: {n: c["all"] for n, c in rows.items() if c.get("all", "").startswith(kind)} for kind in TITLES}
    at_targets = {name: why for name, cells in rows.items() if (why := _refused_at_each_target(cells))}
    steered = {name: cells for name, cells in rows.items() if "all" not in cells and name not in at_targets}
    wrong = [name for name, cells in rows.items() if any(cell.startswith("WRONG") for cell in cells.values())]
    lines = [
        *("| outcome | architectures |", "|---|---|"),
        f"| steered, and compared with the reference | {len(steered)} |",
        f"| refused by the config, before weights are fetched | {len(not_run[REFUSED])} |",
        *([f"| refused at each of these targets | {len(at_targets)} |"] if at_targets else []),
        f"| no tiny model ran unsteered, so not tried | {len(not_run[NOT_MADE])} |",
        f"| wrong | {len(wrong)} |",
    ]
    for kind, found in not_run.items():
        listed = found | at_targets if kind == REFUSED else found
        if listed:
            lines += ["", f"{level} {TITLES[kind]}", "", "| architecture | why |", "|---|---|"]
            lines += [f"| {name} | {why.partition(': ')[2].replace('|', '/')} |" for name, why in listed.items()]
    lines += ["", f"{level} Exact", *_names_without_exception(steered, columns)]
    exceptions = {name: cells for name, cells in steered.items() if _has_exception(cells)}
    if exceptions:
        lines += ["", f"{level} {EXCEPTIONS}", "", "These are exact in the columns that are not shown:", ""]
        lines += _table(exceptions, columns)
    return lines


def _refused_at_each_target(cells: dict[str, str]) -> str:
    """Why, where all that was run was refused."""
    found = [cell for cell in cells.values() if cell]
    return found[0] if "all" not in cells and all(cell.startswith(REFUSED) for cell in found) else ""


def _has_exception(cells: dict[str, str]) -> bool:
    return any(cell not in ("exact", "") for cell in cells.values())


def _names_without_exception(steered: Rows, columns: Sequence[str]) -> Iterator[str]:
    """A list for each set of columns that architectures take."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, cells in steered.items():
        if not _has_exception(cells):
            groups.setdefault(tuple(column for column in columns if not cells[column]), []).append(name)
    for missing, names in sorted(groups.items()):
        but = f" but {' and '.join(missing)}, which they do not take" if missing else ""
        yield from ("", f"Exact in every column{but}:", "")
        yield from textwrap.wrap(", ".join(names), 118, break_on_hyphens=False)


def _table(rows: Rows, columns: Sequence[str]) -> Iterator[str]:
    """The table of some rows without the columns in which all are exact, and its notes."""
    shown = [column for column in columns if any(cells[column] != "exact" for cells in rows.values())]
    notes: dict[str, int] = {}

    def cell(text: str) -> str:
        word, _, why = text.partition(": ")
        return f"{word} ({notes.setdefault(why, len(notes) + 1)})" if why else word

    yield from (f"| architecture | {' | '.join(shown)} |", f"|---|{'---|' * len(shown)}")
    for name, cells in rows.items():
        yield f"| {name} | {' | '.join(cell(cells[column]) for column in shown)} |"
    yield ""
    yield from (f"{number}. {why}" for why, number in notes.items())


def read_sections(text: str, columns: Sequence[str], level: str = "##") -> Rows:
    """The outcomes that `sections` wrote into a page."""

    def under(title: str) -> str:
        found = re.search(rf"^{level} {title}\n(.*?)(?=^{level} |\Z)", text, re.MULTILINE | re.DOTALL)
        return found[1] if found else ""

    def cells_of(section: str) -> list[list[str]]:
        return [
            [cell.strip() for cell in line.split("|")[1:-1]] for line in re.findall(r"^\|.*", section, re.MULTILINE)
        ]

    rows: Rows = {}
    for kind, title in TITLES.items():
        for name, why in cells_of(under(title))[2:]:
            target = re.match(r"tokens=(\w+): ", why)
            rows[name] = dict.fromkeys(columns, "") if target else {}
            rows[name][target[1] if target else "all"] = f"{kind}: {why}"
    for missing, names in EXACT.findall(text):
        empty = missing.split(" and ")
        taken = {column: "" if column in empty else "exact" for column in columns}
        rows |= {name.strip(): dict(taken) for name in names.replace("\n", " ").split(", ")}
    notes = dict(re.findall(r"^(\d+)\. (.*)", under(EXCEPTIONS), re.MULTILINE))
    table = cells_of(under(EXCEPTIONS))
    for name, *found in table[2:]:
        shown = {
            column: re.sub(r" \((\d+)\)$", lambda number: f": {notes[number[1]]}", cell)
            for column, cell in zip(table[0][1:], found, strict=True)
        }
        rows[name] = {column: shown.get(column, "exact") for column in columns}
    return rows
