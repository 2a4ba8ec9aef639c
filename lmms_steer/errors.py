"""The errors for a user's mistake and for a call that cannot be steered, and the wording that all errors share."""

from collections.abc import Iterable
from difflib import get_close_matches

MAX_LISTED = 150
"""An error lists all known names up to this number, and only the nearest of more."""
MAX_MESSAGE_LENGTH = 10_000
"""Maximum number of characters of an error; a list of `MAX_LISTED` names is shorter."""
MAX_VALUE_LENGTH = 80
"""Maximum number of characters of a value in an error."""


class UserError(ValueError):
    """A mistake in the user's input. Its message is one line: what is wrong, the value, and what would be right.

    The command lines print the line and exit with status 2; in a script it is an ordinary `ValueError`. Characters that
    would act on a terminal or begin another line, which a name or a file may contain, are written as escapes.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(str(message)[:MAX_MESSAGE_LENGTH]))


class SteeringError(UserError, RuntimeError):
    """A forward call that cannot be steered as the spec says. Raised instead of a result that would be a guess."""


def unknown_name(kind: str, name: object, known: Iterable[str], where: str = "") -> UserError:
    """The error for an unknown name. Its message lists the known names and suggests the nearest one.

    Args:
        kind: kind of thing that the name should refer to, in the singular ("method").
        name: what the user typed.
        known: all names that are allowed.
        where: the place of the name, if the user cannot see it from the command ("in --model_args").
    """
    names = sorted(known)
    unknown = f"unknown {kind} {str(name)!r}{f' {where}' if where else ''}"
    # below are other words: 'strength' and 'steering' have 0.63, 'concept' and 'control' 0.57
    nearest = get_close_matches(str(name), names, n=5 if len(names) > MAX_LISTED else 1, cutoff=0.65)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    if len(names) > MAX_LISTED:
        others = f"or {', '.join(nearest[1:])}; " if nearest[1:] else ""
        return UserError(f"{unknown}: {hint}{others}{len(names)} are known")
    listed = ", ".join(names) if names else "none"
    return UserError(f"{unknown}: {hint}known: {listed}")


def first_line(error: BaseException) -> str:
    """The first line of an error's message that is not empty, for errors of other libraries."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def reason(error: BaseException) -> str:
    """Why something failed, for a message that names the file: without the path and the number of a system error."""
    return getattr(error, "strerror", None) or first_line(error)


def printable(text: str) -> str:
    """A text with `\\x1b` or `\\n` in place of each character that is not printable."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shorten(value: object) -> str:
    """A value for an error message: on one line, at most `MAX_VALUE_LENGTH` characters of it."""
    text = str(value)
    line = text if text.isprintable() else repr(text)
    return line if len(line) <= MAX_VALUE_LENGTH else f"{line[:MAX_VALUE_LENGTH]}…"
