"""Which options a stored part of a training was made with, so that no other training takes it for its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

FILE = "training.json"
"""The options in a folder; a safetensors file has them in its header."""
_KEY = "options"
_SHOWN = 3
"""Differences that the error names."""


def in_header(options: Mapping[str, Any]) -> dict[str, str]:
    """Options as the metadata of a safetensors file."""
    return {_KEY: json.dumps(options)}


def write_options(folder: Path, options: Mapping[str, Any]) -> None:
    """Write options into a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(json.dumps(options), encoding="utf-8")


def check_options(made: Path, options: Mapping[str, Any]) -> None:
    """Check that a stored file or folder was made with these options.

    Args:
        made: a safetensors file with `in_header`, or a folder with `write_options`.
        options: of this training.

    Raises:
        SystemExit: for others, and where none are recorded; it says what to delete.
    """
    if made.is_dir():
        text = (made / FILE).read_text(encoding="utf-8") if (made / FILE).is_file() else None
    else:
        with safe_open(made, "pt") as file:
            text = (file.metadata() or {}).get(_KEY)
    advice = "delete it, or choose another --out"
    if text is None:
        raise SystemExit(f"{made} does not record the options that it was made with: {advice}")
    # as JSON has them: lists in the place of tuples
    stored, wanted = json.loads(text), json.loads(json.dumps(options))
    if stored != wanted:
        differ = [name for name in {**stored, **wanted} if stored.get(name) != wanted.get(name)]
        found = ", ".join(f"{name} {stored.get(name)} (now {wanted.get(name)})" for name in differ[:_SHOWN])
        raise SystemExit(f"{made} is of a training with {found}: {advice}")
