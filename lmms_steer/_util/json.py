"""JSON from files that others wrote: nested too deeply, or with a number beyond all use, it is refused."""

import json
from pathlib import Path
from typing import Any

from lmms_steer._util.io import read_limited

MAX_DIGITS = 300
"""Longest whole number. `float` fails with an OverflowError beyond 308 digits."""
MAX_BYTES = 1 << 28
"""Largest file, 256 MiB."""
MAX_DEPTH = 100
"""Most lists and objects that a value is inside of. Python's own limit depends on the caller, so that not all that was
read could be written again."""
_TOO_DEEP = f"nested too deeply, more than {MAX_DEPTH} levels"


def parse_json(text: str | bytes) -> Any:
    """Parse a JSON document.

    Raises:
        ValueError: for a text that is not JSON, is nested too deeply, or has a number of more than 300 digits.
    """
    try:
        value = json.loads(text, parse_int=_parse_int)
    except RecursionError as error:
        raise ValueError(_TOO_DEEP) from error
    opened = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if opened > MAX_DEPTH:
        _check_depth(value)
    return value


def json_lines(text: str) -> list[str]:
    """The lines of a JSONL file. `str.splitlines` also splits at characters that JSON texts may hold, as U+2028."""
    return text.replace("\r\n", "\n").split("\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: as `read_limited`.
        ValueError: as `parse_json`.
    """
    return parse_json(read_limited(path, MAX_BYTES))


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth >= MAX_DEPTH:
            raise ValueError(_TOO_DEEP)
        children = (
            node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list)
        )
        level, depth = [child for nodes in children for child in nodes if isinstance(child, dict | list)], depth + 1


def _parse_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)
