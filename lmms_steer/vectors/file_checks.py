"""What a safetensors file must be before the library reads it as steering vectors.

The library checks lengths, offsets and shapes. It reads a header of 100 MB, of two equal names it keeps one, and numpy
turns whole numbers, truth values and complex numbers into float32 without a word.
"""

import json
import re
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmms_steer._util.json import parse_json
from lmms_steer.errors import shorten

MAX_HEADER = 1 << 23
"""Largest header, 8 MiB; those that ship have a few kilobytes."""
MAX_FILE = 1 << 30
"""Largest file, 1 GiB: 10,000 layers of width 26,000."""
MAX_LAYERS = 10_000
_DTYPES = ("F16", "F32", "F64")
_KEY = re.compile(r"layer\.(0|[1-9][0-9]{0,5})")
_TEXTS = ("model", "model_id", "concept", "method")
_COUNTS = ("n_layers", "hidden_size")


class NotAVector(ValueError):
    """A safetensors file that is not one of lmms-steer's vectors; the message says why."""


def check_header(path: Path) -> None:
    """Check the size of a file and of its header, and that no name is in the header twice.

    What else is wrong with a header is left to safetensors.

    Args:
        path: a regular file.

    Raises:
        NotAVector: if it cannot be a file of steering vectors.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        size = file.seek(0, 2)
        if length > size - 8:
            return
        if size > MAX_FILE or length > MAX_HEADER:
            raise NotAVector(f"it has {size} bytes, {length} of them in the header")
        file.seek(8)
        header = file.read(length)
    try:
        json.loads(header, object_pairs_hook=_refuse_repeats)
    except NotAVector:
        raise
    except (ValueError, RecursionError):
        return


def read_metadata(text: str) -> dict[str, Any]:
    """Read a vector's metadata: its format, and its provenance.

    Raises:
        NotAVector: for a text that is not a JSON object, or an entry of the wrong type.
    """
    try:
        metadata = parse_json(text)
        # a lone surrogate cannot be written, and so not hashed
        text.encode()
        json.dumps(metadata, ensure_ascii=False).encode()
    except ValueError as error:
        raise NotAVector(f"its metadata cannot be read: {error}") from error
    if not isinstance(metadata, dict):
        raise NotAVector("its metadata is not a JSON object")
    for keys, kind, name in ((_TEXTS, str, "a text"), (("settings",), dict, "an object"), (_COUNTS, int, "a number")):
        for key in keys:
            if not isinstance(metadata.get(key, kind()), kind):
                raise NotAVector(f"{key} is {shorten(repr(metadata[key]))}, not {name}")
    return metadata


def check_width(metadata: Mapping[str, Any], width: int) -> None:
    """Check that the metadata has the width of the directions.

    Raises:
        NotAVector: if it has another one.
    """
    if metadata.get("hidden_size", width) != width:
        raise NotAVector(f"its metadata says hidden_size {metadata['hidden_size']}, but its directions have {width}")


def layer_of_key(key: str, dtype: str) -> int:
    """The layer of a tensor's name.

    Args:
        key: the name.
        dtype: of the tensor, as in the header.

    Raises:
        NotAVector: for a name that is not `layer.N`; `layer.01` would be a second name for layer 1. For a tensor that
            is not of floating-point numbers of numpy.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        raise NotAVector(f"its tensor {shorten(repr(key))} is not named layer.0, layer.1, …")
    if dtype not in _DTYPES:
        raise NotAVector(f"{key} has the dtype {dtype}, not one of {', '.join(_DTYPES)}")
    return int(match[1])


def _refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise NotAVector(f"its header has {shorten(repr(repeated))} twice")
    return found
