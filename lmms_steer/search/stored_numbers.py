"""Numbers that a filter decides by, computed once and kept in a study's folder."""

import json
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from lmms_steer._util.io import put_aside, write_atomically


def stored_numbers(path: Path, count: int, compute: Callable[[], list[float]]) -> list[float]:
    """The numbers in a file, or computed and written into it.

    Processes that share the study wait for the one that computes. A damaged file is put aside.

    Args:
        path: the file.
        count: how many numbers there must be.
        compute: gives them where there is no such file.
    """
    with FileLock(path.with_suffix(".lock")):
        numbers = _read(path, count)
        if numbers is None:
            numbers = compute()
            write_atomically(path, json.dumps(numbers).encode())
        return numbers


def _read(path: Path, count: int) -> list[float] | None:
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        put_aside(path, error)
        return None
    if isinstance(numbers, list) and len(numbers) == count and all(isinstance(number, float) for number in numbers):
        return numbers
    put_aside(path, f"expected {count} numbers")
    return None
