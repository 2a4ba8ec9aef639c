"""Export and import of other tools' files of steering vectors.

| format  | read and written by | content |
|---|---|---|
| lm-eval | lm-evaluation-harness, `--model steered` (lm_eval/models/hf_steered.py) | one layer, its strength |
| gguf    | llama.cpp, repeng and EasySteer: `controlvector`, tensors `direction.N` | every layer except 0 |
| pt      | a state dict {layer: tensor}, or for one layer the tensor alone (EasySteer's `direct`) | any layers |

In all of them layer N is the output of the 0-based block N, as in lmms-steer.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmms_steer import __version__
from lmms_steer._util.extras import require_extra
from lmms_steer._util.formatting import count_noun
from lmms_steer._util.io import is_regular_file, write_atomically
from lmms_steer.errors import UserError, reason, shorten, unknown_name
from lmms_steer.vectors.gguf_file import read_gguf
from lmms_steer.vectors.pt_file import read_pt
from lmms_steer.vectors.steering_vectors import LAYER_CONVENTION, SteeringVectors

FORMATS = ("lm-eval", "gguf", "pt")
MAX_LAYER = 9_999
_DIRECTION = re.compile(r"direction\.([0-9]{1,9})")


def export_vector(
    vectors: SteeringVectors, form: str, out: Path, layer: int | None, alpha: float | None
) -> Iterator[str]:
    """Write `alpha · v` in another tool's format; yields lines for the user to read.

    Args:
        vectors: to export.
        form: one of `FORMATS`.
        out: the file to write.
        layer: the only layer to export; None: all.
        alpha: the strength; None: 1.

    Raises:
        UserError: for an unknown format, a layer that the vector lacks, or vectors that the format cannot express; for
            a strength at which they are not finite.
    """
    if form not in FORMATS:
        raise unknown_name("format", form, FORMATS)
    if vectors.patches is not None:
        raise UserError(f"{vectors.name}: it has a direction for each patch, and {form} one for each layer")
    if layer is not None:
        vectors = SteeringVectors({layer: vectors[layer]}, vectors.provenance)
    with np.errstate(over="ignore", invalid="ignore"):
        if alpha is not None and not all(np.isfinite(vectors[k] * np.float32(alpha)).all() for k in vectors):
            raise UserError(f"--alpha {alpha:g}: {vectors.name} scaled by it overflows float32")
    if form == "gguf":
        yield from _to_gguf(vectors, out, 1.0 if alpha is None else alpha)
    else:
        if form == "lm-eval" and (layer is None or alpha is None):
            raise UserError("--to lm-eval writes one layer and its strength: add --layer and --alpha")
        data = (
            _lm_eval(vectors, alpha)
            if form == "lm-eval" and alpha is not None
            else _state_dict(vectors, layer, 1.0 if alpha is None else alpha)
        )
        _save_pt(data, out)
    count = len([number for number in vectors if form != "gguf" or number > 0])
    yield f"{vectors.name}: {count_noun(count, 'layer')} -> {out}"


def import_vector(path: Path, layer: int | None, provenance: dict[str, Any]) -> SteeringVectors:
    """Read another tool's file.

    Args:
        path: `.gguf`, or a `.pt` of tensors, which is read with `weights_only=True` and so runs no code.
        layer: the layer of a single tensor.
        provenance: what the user knows about the vector: `model`, `concept`, `method`.

    Raises:
        UserError: when the file cannot be read, or contains anything but additions to layers' outputs.
    """
    if not is_regular_file(path):
        raise UserError(f"no such file: {str(path)!r}")
    if path.suffix == ".safetensors":
        raise UserError(
            f"{str(path)!r} needs no import: a spec takes vectors of this package by their file, vector={path}"
        )
    if path.suffix == ".gguf":
        if layer is not None:
            raise UserError(f"{str(path)!r} names its layers itself: leave --layer out")
        directions = _from_gguf(path)
    else:
        directions = _by_layer(path, read_pt(path, layer))
    if max(directions) > MAX_LAYER:
        raise UserError(f"{str(path)!r} has a direction for layer {max(directions)}: expected at most {MAX_LAYER}")
    whole_provenance = {
        **provenance,
        "hidden_size": len(next(iter(directions.values()))),
        "n_layers": max(directions) + 1,
        "layer_convention": LAYER_CONVENTION,
        "settings": {"imported_from": path.name},
        "versions": {"lmms-steer": __version__},
    }
    return SteeringVectors(directions, whole_provenance)


def _lm_eval(vectors: SteeringVectors, alpha: float) -> dict[str, Any]:
    import torch

    ((layer, direction),) = vectors.directions.items()
    entry = {"steering_vector": torch.from_numpy(direction.copy()), "steering_coefficient": float(alpha)}
    return {f"layers.{layer}": {**entry, "action": "add", "bias": None, "head_index": None}}


def _state_dict(vectors: SteeringVectors, layer: int | None, alpha: float) -> Any:
    import torch

    scaled = {number: torch.from_numpy(vectors[number] * np.float32(alpha)) for number in vectors}
    return scaled if layer is None else scaled[layer]


def _save_pt(data: Any, out: Path) -> None:
    import io

    import torch

    buffer = io.BytesIO()
    torch.save(data, buffer)
    write_atomically(out, buffer.getvalue())


def _to_gguf(vectors: SteeringVectors, out: Path, alpha: float) -> Iterator[str]:
    layers = [layer for layer in vectors if layer > 0]
    if not layers:
        raise UserError("llama.cpp has no control vector for layer 0: choose another layer or --to pt")
    if len(layers) < len(vectors.layers):
        yield "layer 0 is left out: llama.cpp has no control vector for it"
    writer = _gguf().GGUFWriter(None, "controlvector")
    writer.add_string("controlvector.model_hint", str(vectors.provenance.get("model", "unknown")))
    writer.add_uint32("controlvector.layer_count", len(layers))
    for layer in layers:
        writer.add_tensor(f"direction.{layer}", (vectors[layer] * np.float32(alpha)).astype(np.float32))
    temporary = out.with_name(f".{out.name}.unfinished")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"cannot write {str(out)!r}: {reason(error)}") from error


def _from_gguf(path: Path) -> dict[int, npt.NDArray[np.float32]]:
    try:
        metadata, tensors = read_gguf(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} is cut off or no GGUF file that can be read: {reason(error)}") from error
    architecture = metadata.get("general.architecture")
    if architecture != "controlvector" or not tensors:
        raise UserError(
            f"{str(path)!r} is a GGUF file of {shorten(repr(architecture))} with {count_noun(len(tensors), 'tensor')},"
            " not a control vector"
        )
    return _by_layer(path, ((name, _DIRECTION.fullmatch(name), tensor) for name, tensor in tensors.items()))


def _by_layer(
    path: Path, found: Iterable[tuple[object, re.Match[str] | None, npt.NDArray[np.float32]]]
) -> dict[int, npt.NDArray[np.float32]]:
    """Layer ▸ direction, from names with the match of their layer's number.

    Raises:
        UserError: for a name without a number, and for two names of one layer.
    """
    directions: dict[int, npt.NDArray[np.float32]] = {}
    for name, match, direction in found:
        if match is None:
            raise UserError(f"{str(path)!r}: {shorten(repr(name))} is not the direction of a numbered layer")
        layer = int(match[1])
        if layer in directions:
            raise UserError(f"{str(path)!r} has two directions for layer {layer}, the second is {shorten(repr(name))}")
        directions[layer] = direction
    return directions


def _gguf() -> Any:
    require_extra("gguf", "a GGUF file")
    import gguf

    return gguf
