"""What is said on the way, on stderr. Only an error begins with `lmms-steer: `, so that a log tells them apart."""

import sys


def note(line: str) -> None:
    """Something that a user should know of."""
    print(f"lmms-steer note: {line}", file=sys.stderr)  # noqa: T201


def warn(line: str) -> None:
    """Something that is probably not what the user wants."""
    print(f"lmms-steer WARNING: {line}", file=sys.stderr)  # noqa: T201
