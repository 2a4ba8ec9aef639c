"""Steering vectors: one direction per layer with its provenance, in one safetensors file.

Reading one needs numpy and safetensors only, so that listing a store imports no torch.
"""

import hashlib
import json
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lmms_steer._util.formatting import count_noun, format_layers
from lmms_steer._util.html import html_table
from lmms_steer._util.io import write_atomically
from lmms_steer.errors import UserError, first_line, reason, shorten
from lmms_steer.vectors.file_checks import (
    MAX_LAYERS,
    NotAVector,
    check_header,
    check_width,
    layer_of_key,
    read_metadata,
)

if TYPE_CHECKING:
    import pandas

Direction = npt.NDArray[np.float32]
FORMAT = "lmms-steer/vectors/1"
LAYER_CONVENTION = "output of the 0-based decoder block, before the final norm"
_METADATA_KEY = "lmms_steer"


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class SteeringVectors:
    """One direction per layer, and its provenance. Two are equal if their directions are.

    Attributes:
        directions: layer ▸ float32 array [hidden_size], in the residual stream's own units; of a vision tower also
            [patches, hidden_size], one direction a patch.
        provenance: what the vector was made from, as plain JSON: `model`, `model_id`, `revision`, `model_path` and
            `weights_sha256` (`lmms_steer.vectors.weights`), `dtype`, `hidden_size`, `n_layers`, `layer_convention`,
            `method`, `settings`, `concept`, `sentences_sha256`, `skipped`, `versions`.

    Raises:
        UserError: for no direction, directions that are not arrays of real numbers by whole layers, of different
            shapes, or with values that are not finite; for a provenance that is no mapping.
    """

    directions: Mapping[int, Direction]
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        for given, expected in ((self.directions, "layer ▸ direction"), (self.provenance, "a mapping of provenance")):
            if not isinstance(given, Mapping):
                raise UserError(f"a vector is made of {expected}, got a {type(given).__name__}")
        try:
            layers = {_whole(layer): direction for layer, direction in self.directions.items()}
            arrays = {layer: _real(layers[layer]) for layer in sorted(layers)}
        except UserError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"a direction cannot be read as numbers: {first_line(error)} (of a torch tensor, give"
                " .detach().float().cpu().numpy())"
            ) from error
        shapes = {a.shape for a in arrays.values()}
        if not arrays or len(shapes) != 1 or len(next(iter(shapes))) not in (1, 2) or 0 in next(iter(shapes)):
            raise UserError(
                f"a vector needs one direction per layer, all of one width, got the shapes {sorted(shapes)}"
            )
        bad = [layer for layer, array in arrays.items() if not np.isfinite(array).all()]
        if bad:
            raise UserError(f"the vector has values that are not finite at layer {bad[0]}")
        object.__setattr__(self, "directions", arrays)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SteeringVectors):
            return NotImplemented
        return self.layers == other.layers and all(np.array_equal(self[layer], other[layer]) for layer in self)

    def __hash__(self) -> int:
        return hash((self.layers, *(direction.tobytes() for direction in self.directions.values())))

    def __getitem__(self, layer: int) -> Direction:
        if layer not in self.directions:
            raise UserError(f"layer={layer}: {self.name} has the layers {format_layers(self.layers)}")
        return self.directions[layer]

    def can_steer(self, layer: int) -> bool:
        """Whether a layer has a direction, and one that is not of norm 0."""
        return layer in self.directions and bool(self.directions[layer].any())

    def check_norm(self, layer: int) -> None:
        """Check that a layer has a direction to steer with.

        Raises:
            UserError: for a layer without a direction, or with one of norm 0.
        """
        if not self[layer].any():
            raise UserError(f"vector {self.name} has norm 0 at layer {layer}: it would steer nothing")

    def __iter__(self) -> Iterator[int]:
        return iter(self.directions)

    def __repr__(self) -> str:
        model, concept, method = (self.provenance.get(key, "unknown") for key in ("model", "concept", "method"))
        settings = self.provenance.get("settings")
        anchors = settings.get("anchors") if isinstance(settings, Mapping) else None
        made_of = f", {count_noun(anchors, 'anchor')}" if isinstance(anchors, int) else ""
        layers = f"layer{'s' if len(self.layers) > 1 else ''} {format_layers(self.layers)}"
        patches = f", {self.patches} patches" if self.patches is not None else ""
        return (
            f"SteeringVectors {concept}, {method} from {model} ({layers}, width {self.hidden_size}{patches}{made_of})"
        )

    def _repr_html_(self) -> str:
        rows = [(layer, f"{norm:.4g}") for layer, norm in self.norms.items()]
        return html_table(("layer", "norm"), rows, f"{self.name}: {self!r}")

    def to_pandas(self) -> "pandas.DataFrame":
        """The norm of each layer's direction, as a data frame with the columns `layer` and `norm`."""
        import pandas

        return pandas.DataFrame({"layer": list(self.norms), "norm": list(self.norms.values())})

    @property
    def norms(self) -> dict[int, float]:
        """Layer ▸ norm of its direction, in the residual stream's own units; of all patches' directions together."""
        return {layer: float(np.linalg.norm(direction)) for layer, direction in self.directions.items()}

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have a direction, in order."""
        return tuple(self.directions)

    @property
    def hidden_size(self) -> int:
        """The width of the directions."""
        return int(next(iter(self.directions.values())).shape[-1])

    @property
    def patches(self) -> int | None:
        """How many patches have a direction of their own; None where one direction is for all."""
        shape = next(iter(self.directions.values())).shape
        return int(shape[0]) if len(shape) == 2 else None

    @property
    def name(self) -> str:
        """`backbone/concept/method`, the vector's name in a store."""
        return "/".join(str(self.provenance.get(key, "unknown")) for key in ("model", "concept", "method"))

    @property
    def sha256(self) -> str:
        """The hash of the file's content: equal directions and provenance have equal hashes, whatever the file's name.

        The folder of the model does not count, as the hash of its weights does.
        """
        return hashlib.sha256(self.without_path().to_bytes()).hexdigest()

    def without_path(self) -> "SteeringVectors":
        """The same vector without the model's folder on this machine, to be shared with others."""
        if "model_path" not in self.provenance:
            return self
        provenance = {key: value for key, value in self.provenance.items() if key != "model_path"}
        return SteeringVectors(self.directions, provenance)

    def to_bytes(self) -> bytes:
        """The content of the safetensors file. Same inputs give the same bytes: one metadata entry with sorted keys.

        Raises:
            UserError: for a provenance that is not plain JSON.
        """
        from safetensors.numpy import save

        metadata = {"format": FORMAT, **self.provenance}
        try:
            # through JSON first: there numeric keys become strings, which are sorted differently
            text = json.dumps(json.loads(json.dumps(metadata)), sort_keys=True, ensure_ascii=False)
            text.encode()
        except (TypeError, ValueError) as error:
            raise UserError(f"the provenance of {self.name} is not plain JSON: {first_line(error)}") from error
        return save({f"layer.{layer}": array for layer, array in self.directions.items()}, {_METADATA_KEY: text})

    def save(self, path: str | Path) -> Path:
        """Write the file atomically: a reader sees the old file or the whole new one.

        Raises:
            UserError: when it cannot be written (a full disk, a folder that is not writable), or could not be read
                again, as under a name that does not end in `.safetensors`.
        """
        if Path(path).suffix != ".safetensors":
            raise UserError(f"{str(path)!r}: the name of a vector's file ends in .safetensors")
        content = self.to_bytes()
        try:
            check_width(read_metadata(json.dumps({**self.provenance})), self.hidden_size)
            for layer in self.layers:
                layer_of_key(f"layer.{layer}", "F32")
        except NotAVector as error:
            raise UserError(f"{self.name} cannot be saved: {error}") from error
        return write_atomically(Path(path), content)

    @classmethod
    def load(cls, path: str | Path) -> "SteeringVectors":
        """Read a file that `save` wrote.

        Raises:
            UserError: for a file that is missing, cut off, not safetensors, or not written by lmms-steer.
        """
        path = Path(path)
        if path.suffix in (".pt", ".pth", ".bin", ".pkl"):
            raise UserError(
                f"{str(path)!r} is a pickle, which can run code when it is read: lmms-steer reads safetensors"
            )
        with _opened(path) as (file, metadata, keys):
            directions = {layer: file.get_tensor(key) for layer, key in keys.items()}
            with np.errstate(over="ignore"):
                return cls(directions, {key: value for key, value in metadata.items() if key != "format"})


def _whole(layer: Any) -> int:
    try:
        number = int(layer)
    except (TypeError, ValueError):
        number = None
    if number is None or (isinstance(layer, float) and number != layer):
        raise UserError(f"a vector's layers are whole numbers, got {shorten(repr(layer))}")
    return number


def _real(direction: Any) -> Direction:
    if np.iscomplexobj(direction):
        raise ValueError("it has complex numbers")
    # a copy, because the caller's array may change; safetensors writes the memory as it lies, and so the wrong numbers
    # of a column or of a transposed array
    return np.array(direction, dtype=np.float32, order="C")


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Read a file's provenance and its `layers` (their numbers), but not the directions.

    `n_layers`, `hidden_size` and `settings` are taken from the file's header if the provenance lacks them.

    Raises:
        UserError: as `SteeringVectors.load`.
    """
    with _opened(Path(path)) as (file, metadata, keys):
        last = max(keys)
        defaults = {"n_layers": last + 1, "hidden_size": file.get_slice(keys[last]).get_shape()[-1], "settings": {}}
    return defaults | metadata | {"layers": sorted(keys)}


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any], dict[int, str]]]:
    """A safetensors file, memory-mapped; its metadata; and layer ▸ the tensor's name. Errors inside are explained.

    Raises:
        UserError: for a file that is missing, cut off, not safetensors, or not written by lmms-steer.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"cannot read the vector {str(path)!r}: it is a folder, a pipe or a device")
        check_header(path)
        with safe_open(path, "numpy") as file:
            yield file, *_read_names(file)
    except FileNotFoundError as error:
        raise UserError(f"cannot read the vector {str(path)!r}: there is no such file") from error
    except SafetensorError as error:
        raise UserError(f"{str(path)!r} is cut off or no safetensors file: {first_line(error)}") from error
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f"{str(path)!r}: {error}") from error
    except NotAVector as error:
        raise UserError(
            f"{str(path)!r} is a safetensors file, but not one of lmms-steer's vectors: {first_line(error)}"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the vector {str(path)!r}: {reason(error)}") from error


def _read_names(file: Any) -> tuple[dict[str, Any], dict[int, str]]:
    metadata, keys = (file.metadata() or {}).get(_METADATA_KEY), file.keys()
    if metadata is None:
        raise NotAVector(f"it has no metadata {_METADATA_KEY!r}")
    if not 0 < len(keys) <= MAX_LAYERS:
        raise NotAVector(f"it has {len(keys)} tensors")
    slices = {key: file.get_slice(key) for key in keys}
    layers = {layer_of_key(key, part.get_dtype()): key for key, part in slices.items()}
    shapes = {tuple(part.get_shape()) for part in slices.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) not in (1, 2):
        raise NotAVector(f"its tensors have the shapes {shorten(sorted(shapes))}, not all one width")
    content = read_metadata(metadata)
    check_width(content, next(iter(shapes))[-1])
    return content, layers
