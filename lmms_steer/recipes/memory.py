"""Whether a model fits, told before it is loaded from the headers of its weights; no weight is read."""

import json
import struct
from math import prod
from pathlib import Path

from lmms_steer.backbones import checkpoint

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_STORED = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1}
_LARGEST_HEADER = 100 * 2**20


def needed(pretrained: str, dtype: str, processor: bool = False) -> int | None:
    """Bytes that a checkpoint's weights take; None where they are not on this disk or cannot be told.

    Args:
        pretrained: as in `--model_args`.
        dtype: as in `--model_args`; `auto` is float32 on a processor, and as stored elsewhere.
        processor: whether it will run on a processor.
    """
    folder = on_disk(pretrained)
    width = 4 if dtype == "auto" and processor else _BYTES.get(dtype)
    try:
        return sum(_tensors(path, width) for path in _weights(folder)) or None if folder else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None


def problem(pretrained: str, dtype: str) -> str | None:
    """One line where the weights alone are more than there is; None where they fit, or nobody can tell."""
    import psutil
    import torch

    if torch.cuda.is_available():
        there = sum(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))
        where = f"{torch.cuda.device_count()} accelerator(s)"
    else:
        there, where = int(psutil.virtual_memory().total), "memory"
    need = needed(pretrained, dtype, not torch.cuda.is_available())
    if need is None or need <= there:
        return None
    return (
        f"{pretrained} needs {gigabytes(need)} for its weights (dtype={dtype}), and there are {gigabytes(there)} of"
        f" {where}: take a smaller dtype or a larger machine"
    )


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**8 else f"{count / 1e6:.1f} MB"


def on_disk(name: str) -> Path | None:
    """Where a checkpoint's files are, without its weights being read; None for one that is not here."""
    name = checkpoint(name)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub.constants import HF_HUB_CACHE

    snapshots = Path(HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "snapshots")
    found = sorted(snapshots.glob("*"), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _weights(folder: Path) -> list[Path]:
    """What transformers loads; some checkpoints hold the same weights a second time, in another layout."""
    index, one = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        return sorted({folder / name for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    return [one] if one.is_file() else sorted(folder.glob("*.safetensors"))


def _tensors(path: Path, width: int | None) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _LARGEST_HEADER:
            raise ValueError(f"{path} is no safetensors file")
        header = json.loads(file.read(length))
    tensors = (entry for name, entry in header.items() if name != "__metadata__")
    return sum(prod(entry["shape"]) * (width or _STORED[entry["dtype"]]) for entry in tensors)
