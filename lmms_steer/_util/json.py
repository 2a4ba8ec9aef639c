"""JSON from files that others wrote: nested too deeply, or with a number beyond all use, it is refused."""

import json
from pathlib import Path
from typing import Any

from lmms_steer._util.io import read_limited

MAX_DIGITS = 300
"""Longest whole number. `float` fails with an OverflowError beyond 308 digits."""
MAX_BYTES = 1 << 28
"""Largest file, 256 MiB."""


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON document.

    Raises:
        ValueError: for a text that is not JSON, is nested too deeply, or has a number of more than 300 digits.
    """
    try:
        return json.loads(text, parse_int=_parse_int)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: as `read_limited`.
        ValueError: as `parse_json`.
    """
    return parse_json(read_limited(path, MAX_BYTES))


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
