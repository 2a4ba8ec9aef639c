"""A concept's direction at every layer, with what it was made from, in one safetensors file.

Only numpy and safetensors are needed to read one, so that listing a store costs no torch import.
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmms_steer._util.formatting import format_layers
from lmms_steer._util.io import write_atomically
from lmms_steer.errors import UserError, first_line

Direction = npt.NDArray[np.float32]
FORMAT = "lmms-steer/vectors/1"
LAYER_CONVENTION = "output of the 0-based decoder block, before the final norm"
_METADATA_KEY = "lmms_steer"


@dataclass(frozen=True, slots=True)
class SteeringVectors:
    """One direction a layer, and its provenance.

    Attributes:
        directions: layer ▸ float32 array of shape [hidden_size], in the residual stream's own units.
        provenance: what the vector was made from (contract 4 of DESIGN.md): `model`, `revision`, `weights`,
            `hidden_size`, `n_layers`, `layer_convention`, `method`, `settings`, `concept`, `sentences_sha256`,
            `versions`. Plain JSON.
    """

    directions: Mapping[int, Direction]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        arrays = {int(k): np.asarray(v, dtype=np.float32) for k, v in sorted(self.directions.items())}
        shapes = {a.shape for a in arrays.values()}
        if not arrays or len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise UserError(f"a vector needs one direction of one width at each layer, got shapes {sorted(shapes)}")
        bad = [layer for layer, array in arrays.items() if not np.isfinite(array).all()]
        if bad:
            raise UserError(f"the vector has values that are not finite at layer {bad[0]}")
        object.__setattr__(self, "directions", arrays)

    def __getitem__(self, layer: int) -> Direction:
        if layer not in self.directions:
            raise UserError(f"layer={layer}: {self.name} has the layers {format_layers(self.layers)}")
        return self.directions[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self.directions)

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(self.directions)

    @property
    def hidden_size(self) -> int:
        return int(next(iter(self.directions.values())).shape[0])

    @property
    def name(self) -> str:
        """`backbone/concept/method`, as the store files it."""
        return "/".join(str(self.provenance.get(key, "unknown")) for key in ("model", "concept", "method"))

    @property
    def sha256(self) -> str:
        """Of the file's bytes: equal for equal directions and provenance, whatever file or name holds them."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """The safetensors file. Same inputs, same bytes: one metadata entry, sorted keys."""
        from safetensors.numpy import save

        metadata = {"format": FORMAT, **self.provenance}
        text = json.dumps(metadata, sort_keys=True, ensure_ascii=False)
        return save({f"layer.{layer}": array for layer, array in self.directions.items()}, {_METADATA_KEY: text})

    def save(self, path: str | Path) -> Path:
        """Write the file in one step: whoever looks sees the old one, or the new one whole.

        Raises:
            UserError: where it cannot be written (a full disk, a folder that is not writable).
        """
        return write_atomically(Path(path), self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> "SteeringVectors":
        """Read a file that `save` wrote.

        Raises:
            UserError: when it is missing, cut off, no safetensors file, or one that lmms-steer did not write.
        """
        path = Path(path)
        if path.suffix in (".pt", ".pth", ".bin", ".pkl"):
            raise UserError(
                f"{str(path)!r} is a pickle, which can run code when it is read: lmms-steer reads safetensors"
            )
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            data = path.read_bytes()
            tensors = load(data)
            metadata = _metadata(_header(data))
            directions = {_layer(key): array for key, array in tensors.items()}
        except OSError as error:
            raise UserError(f"cannot read the vector {str(path)!r}: {error.strerror or error}") from error
        except SafetensorError as error:
            raise UserError(f"{str(path)!r} is cut off or no safetensors file: {first_line(error)}") from error
        except (KeyError, ValueError, TypeError) as error:
            raise UserError(f"{str(path)!r} is a safetensors file, but not one of lmms-steer's vectors") from error
        return cls(directions, {key: value for key, value in metadata.items() if key != "format"})


def read_provenance(path: str | Path) -> dict[str, Any]:
    """The provenance and `layers`, their numbers, without reading the directions; an unsaid shape the file tells.

    Raises:
        UserError: as `SteeringVectors.load`.
    """
    try:
        with Path(path).open("rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(min(size, 1 << 24)))
        metadata = _metadata(header)
        shapes = {_layer(key): entry["shape"] for key, entry in header.items() if key != "__metadata__"}
        told = {"n_layers": max(shapes) + 1, "hidden_size": shapes[max(shapes)][0], "settings": {}}
    except (OSError, struct.error, ValueError, KeyError, IndexError, TypeError) as error:
        raise UserError(f"{str(path)!r} is cut off or not one of lmms-steer's vectors") from error
    return told | metadata | {"layers": sorted(shapes)}


def _metadata(header: dict[str, Any]) -> dict[str, Any]:
    metadata = json.loads(header["__metadata__"][_METADATA_KEY])
    if not isinstance(metadata, dict) or not isinstance(metadata.get("settings", {}), dict):
        raise TypeError
    return metadata


def _layer(key: str) -> int:
    return int(key.removeprefix("layer."))


def _header(data: bytes) -> dict[str, Any]:
    size = struct.unpack("<Q", data[:8])[0]
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    return header
