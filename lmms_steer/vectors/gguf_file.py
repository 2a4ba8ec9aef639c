"""Read a GGUF control vector: the metadata's text entries, and its tensors.

The package gguf trusts the numbers in a file: for an array with 2^60 elements it runs on without end, and it allocates
an object for each element. Here each number is checked against the size of the file before it is used. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lmms_steer._util.io import read_limited
from lmms_steer.errors import shorten

T = TypeVar("T")
MAX_BYTES = 1 << 30
"""Largest file, 1 GiB: 10,000 layers of width 26,000."""
MAX_COUNT = 10_000
"""Most tensors, entries of metadata, and elements of one array."""
MAX_ELEMENTS = 100_000
"""Most elements of all arrays together."""
MAX_DEPTH = 4
"""Most arrays inside of each other."""
_MAX_TEXT = 1 << 16
_MAX_DIMS = 4
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
"""Type of a metadata value ▸ its `struct` format."""
_STRING, _ARRAY = 8, 9
_DTYPES: dict[int, type[np.floating[Any]]] = {0: np.float32, 1: np.float16, 28: np.float64}
"""Type of a tensor ▸ its dtype; all others are quantised, or unknown to numpy."""


@dataclass(frozen=True, slots=True)
class _TensorInfo:
    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


def read_gguf(path: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
    """Read a GGUF file, version 2 or 3.

    Returns:
        the metadata, and name ▸ tensor of one dimension.

    Raises:
        OSError: for a file that cannot be opened or is too large.
        ValueError: for a file that is cut off, is no GGUF file, or has a tensor that is quantised or not of one
            dimension.
    """
    data = read_limited(path, MAX_BYTES)
    reader = _Reader(data)
    if reader.take(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version = reader.number("I")
    if version not in (2, 3):
        raise ValueError(f"it has version {version}: versions 2 and 3 are read, in little-endian order")
    n_tensors, n_entries = reader.count("tensors"), reader.count("entries of metadata")
    metadata = dict(reader.distinct("entry", n_entries, reader.entry))
    infos = dict(reader.distinct("tensor", n_tensors, reader.tensor))
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
        raise ValueError(f"its alignment is {shorten(alignment)}")
    start = -(-reader.position // alignment) * alignment
    return metadata, {name: _tensor(data, start, info) for name, info in infos.items()}


def _tensor(data: bytes, start: int, info: _TensorInfo) -> npt.NDArray[np.float32]:
    if info.kind not in _DTYPES:
        raise ValueError(f"its tensor {shorten(repr(info.name))} is quantised (type {info.kind}), not F32, F16 or F64")
    width = max(info.shape, default=1)
    if info.shape.count(1) < len(info.shape) - 1 or width == 0:
        raise ValueError(f"its tensor {shorten(repr(info.name))} has the shape {list(info.shape)}, not [width]")
    dtype = np.dtype(_DTYPES[info.kind]).newbyteorder("<")
    first = start + info.offset
    if first + width * dtype.itemsize > len(data):
        raise ValueError(f"its tensor {shorten(repr(info.name))} ends after the end of the file")
    return np.frombuffer(data, dtype, width, first).astype(np.float32)


class _Reader:
    """Reads a file's header, one value after the other; a `ValueError` at the end of the data."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position, self.elements = data, 0, 0

    def take(self, length: int) -> bytes:
        if length > len(self.data) - self.position:
            raise ValueError(f"it ends inside its header, at byte {self.position}")
        self.position += length
        return self.data[self.position - length : self.position]

    def number(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def count(self, what: str) -> int:
        number = int(self.number("Q"))
        if number > MAX_COUNT:
            raise ValueError(f"it claims {number} {what}, more than {MAX_COUNT}")
        return number

    def text(self) -> str:
        length = int(self.number("Q"))
        if length > _MAX_TEXT:
            raise ValueError(f"it claims a text of {length} bytes")
        return self.take(length).decode()

    def distinct(self, what: str, number: int, read: Callable[[], tuple[str, T]]) -> Iterator[tuple[str, T]]:
        seen: set[str] = set()
        for _ in range(number):
            name, value = read()
            if name in seen:
                raise ValueError(f"it has the {what} {shorten(repr(name))} twice")
            seen.add(name)
            yield name, value

    def entry(self) -> tuple[str, Any]:
        return self.text(), self.value(self.number("I"))

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.text()
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind != _ARRAY:
            raise ValueError(f"it has a value of the unknown type {kind}")
        if depth >= MAX_DEPTH:
            raise ValueError(f"its arrays are nested more than {MAX_DEPTH} deep")
        of, length = self.number("I"), self.count("elements of an array")
        self.elements += length
        if self.elements > MAX_ELEMENTS:
            raise ValueError(f"its arrays have more than {MAX_ELEMENTS} elements")
        return [self.value(of, depth + 1) for _ in range(length)]

    def tensor(self) -> tuple[str, _TensorInfo]:
        name, n_dims = self.text(), self.number("I")
        if n_dims > _MAX_DIMS:
            raise ValueError(f"its tensor {shorten(repr(name))} claims {n_dims} dimensions")
        shape = tuple(self.number("Q") for _ in range(n_dims))
        return name, _TensorInfo(name, shape, self.number("I"), self.number("Q"))
