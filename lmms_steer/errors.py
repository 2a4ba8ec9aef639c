"""The one kind of error that a user's mistake raises, and the wording that all of them share."""

from collections.abc import Iterable
from difflib import get_close_matches

MAX_LISTED = 150
"""Of more names than this an error lists the nearest only."""
MAX_VALUE_LENGTH = 80
"""Of a value in an error are so many characters shown."""


class UserError(ValueError):
    """A mistake in what the user gave: one line that says what is wrong, with the value, and what would be right.

    The command lines print the line and exit with status 2; in a script it is an ordinary `ValueError`.
    """


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: what exists, and the nearest of it.

    Args:
        kind: what the name should have named, in the singular ("method").
        name: what the user typed.
        known: every name that would have been right.
    """
    names = sorted(known)
    nearest = get_close_matches(str(name), names, n=5 if len(names) > MAX_LISTED else 1, cutoff=0.5)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    if len(names) > MAX_LISTED:
        others = f"or {', '.join(nearest[1:])}; " if nearest[1:] else ""
        return UserError(f"unknown {kind} {str(name)!r}: {hint}{others}{len(names)} are known")
    listed = ", ".join(names) if names else "none"
    return UserError(f"unknown {kind} {str(name)!r}: {hint}known: {listed}")


def first_line(error: BaseException) -> str:
    """The first line of an error's text that says something, for errors that other libraries raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def shorten(value: object) -> str:
    """A value as it was typed, for an error: in one line, of readable length."""
    text = str(value)
    line = text if text.isprintable() else repr(text)
    return line if len(line) <= MAX_VALUE_LENGTH else f"{line[:MAX_VALUE_LENGTH]}…"
