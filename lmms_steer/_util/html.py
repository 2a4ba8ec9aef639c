"""Tables for notebooks, as HTML in which every text is escaped."""

from collections.abc import Iterable, Sequence
from html import escape


def html_table(
    titles: Sequence[str], rows: Iterable[Sequence[object]], heading: str = "", notes: Iterable[str] = ()
) -> str:
    """Write a table as HTML.

    Args:
        titles: of the columns.
        rows: the cells, row by row.
        heading: a line above the table; "" for none.
        notes: lines below it.
    """
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    above = f"<p>{escape(heading)}</p>" if heading else ""
    below = "".join(f"<p><small>{escape(note)}</small></p>" for note in notes)
    return f"{above}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"
