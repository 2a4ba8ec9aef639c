"""Read a `.pt` file of directions: one tensor, or a tensor for each layer. No code in it runs."""

import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lmms_steer.errors import UserError, first_line, reason, shorten

MAX_BYTES = 1 << 30
"""Largest file, and largest content of one, 1 GiB: 10,000 layers of width 26,000."""
_LAYER = re.compile(r"(?:^|\.)([0-9]{1,9})(?=\.|$)", re.ASCII)
_ENCODER = re.compile(r"vision|visual|image|audio|speech|encoder", re.IGNORECASE)

Found = tuple[object, "re.Match[str] | None", npt.NDArray[np.float32]]
"""A tensor's name, the match of its layer's number, and the tensor."""


def read_pt(path: Path, layer: int | None) -> Iterator[Found]:
    """Read the directions of a file.

    Args:
        path: of the file, which is read with `weights_only=True` and so runs no code.
        layer: the layer of a single tensor.

    Yields:
        each direction with its name and the match of its layer.

    Raises:
        UserError: for a file that cannot be read, or contains anything but additions to layers' outputs.
    """
    import torch

    data = _load(path)
    where = repr(str(path))
    if isinstance(data, torch.Tensor):
        yield from _of_tensor(data, layer, where)
        return
    if not isinstance(data, dict) or not data:
        raise UserError(f"{where} contains a {type(data).__name__}: expected a tensor, or a tensor for each layer")
    if layer is not None:
        raise UserError(f"{where} names its layers itself: leave --layer out")
    for key, value in data.items():
        # other keys may be nested so that their text would not end
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise UserError(f"{where}: a key is a {type(key).__name__}, not the name or the number of a layer")
        name = f"{where}: {shorten(repr(key))}"
        tensor = _scaled_vector(value, name) if isinstance(value, dict) else _array(value, name)
        row = tensor.squeeze()
        if row.ndim != 1:
            raise UserError(f"{name} has the shape {list(tensor.shape)}: expected [width]")
        yield key, _layer_in(str(key), where), row


def _load(path: Path) -> Any:
    import torch

    try:
        _check_size(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{str(path)!r} contains more than tensors and plain values: it is not read") from error
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {reason(error)}") from error
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  a damaged pickle can raise anything that the functions in it raise
        raise UserError(f"{str(path)!r} is cut off or no .pt file: {first_line(error)}") from error


def _check_size(path: Path) -> None:
    """Refuse a file that is large, or small and compressed to become large."""
    size = path.stat().st_size
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = max(size, sum(entry.file_size for entry in archive.infolist()))
    if size > MAX_BYTES:
        raise UserError(f"{str(path)!r} has {size} bytes: too many for steering vectors")


def _array(value: object, name: str) -> npt.NDArray[np.float32]:
    """A tensor as numpy's.

    Raises:
        UserError: for what is not an ordinary tensor of floating-point numbers.
    """
    import torch

    if not isinstance(value, torch.Tensor):
        raise UserError(f"{name} is a {type(value).__name__}, not a tensor")
    kinds = {
        "has no data (it is on the device meta)": value.is_meta,
        "is quantised": value.is_quantized,
        f"is sparse ({value.layout})": value.layout != torch.strided,
        "is a nested tensor": value.is_nested,
        f"has the dtype {value.dtype}, not floating-point numbers": not value.dtype.is_floating_point,
        "has no numbers": value.numel() == 0,
        # a few bytes may stand for a tensor of any shape
        f"has the shape {list(value.shape)}": 4 * value.numel() > MAX_BYTES,
    }
    for problem, applies in kinds.items():
        if applies:
            raise UserError(f"{name} {problem}: expected a plain tensor [width]")
    converted: npt.NDArray[np.float32] = value.detach().float().numpy()
    return converted


def _layer_in(key: str, where: str) -> "re.Match[str] | None":
    found = list(_LAYER.finditer(key))
    if len(found) > 1:
        raise UserError(f"{where}: {shorten(repr(key))} has two numbers, of which either may be the layer's")
    if not found:
        return None
    if key[found[0].end() :]:
        raise UserError(
            f"{where}: {shorten(repr(key))} is a module inside of a layer: only what is added to the output of a layer"
            " can be imported, as of 'model.layers.3'"
        )
    if _ENCODER.search(key):
        raise UserError(f"{where}: {shorten(repr(key))} is a layer of an encoder, not of the language model")
    return found[0]


def _scaled_vector(entry: dict[str, Any], name: str) -> npt.NDArray[np.float32]:
    """The vector of an entry of lm-eval's, times its coefficient."""
    if entry.get("action") != "add" or entry.get("bias") is not None or entry.get("head_index") is not None:
        raise UserError(f"{name} is not a plain addition: expected action=add without bias and head_index")
    coefficient = entry.get("steering_coefficient", 1.0)
    if not isinstance(coefficient, int | float) or isinstance(coefficient, bool):
        raise UserError(f"{name}: the steering_coefficient is a {type(coefficient).__name__}, not a number")
    if "steering_vector" not in entry:
        raise UserError(f"{name} has no steering_vector")
    try:
        factor = np.float32(float(coefficient))
    except OverflowError as error:
        raise UserError(f"{name}: the steering_coefficient is too large") from error
    with np.errstate(over="ignore", invalid="ignore"):
        return _array(entry["steering_vector"], f"{name}, steering_vector") * factor


def _of_tensor(data: object, layer: int | None, where: str) -> Iterator[Found]:
    rows = _array(data, where)
    # [1, width] is one direction: its place in the tensor is not its layer
    if rows.ndim == 2 and len(rows) > 1 and layer is None:
        yield from ((number, _LAYER.search(str(number)), row) for number, row in enumerate(rows))
        return
    row = rows.squeeze()
    if row.ndim != 1:
        raise UserError(f"{where} contains a tensor of shape {list(rows.shape)}: expected [width] or [layers, width]")
    if layer is None:
        raise UserError(f"{where} contains one direction: add --layer with the number of its layer")
    yield layer, _LAYER.search(str(layer)), row
