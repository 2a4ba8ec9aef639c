"""Tensors of a base pass: in memory up to a bound, in files beyond it.

Positions before the first steered one, in a causal model: their keys and values are those of the base pass.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor


class TensorStore:
    """A mapping of names to tensors, each written once.

    Args:
        budget: bytes to hold in memory; None holds all.
        folder: on whose disk the rest is kept, in files without a name that end with the process; None: the system's.
    """

    def __init__(self, budget: int | None = None, folder: Path | None = None) -> None:
        self.budget, self.folder = budget, folder
        self.held: dict[str, Tensor] = {}
        self.spilled: dict[str, tuple[IO[bytes], torch.device]] = {}
        self.bytes = 0

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        size = tensor.element_size() * tensor.nelement()
        if self.budget is None or self.bytes + size <= self.budget:
            self.held[name] = tensor
            self.bytes += size
            return
        file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  as long as this object
        file.write(safetensors.torch.save({"tensor": tensor.contiguous().cpu()}))
        file.flush()
        self.spilled[name] = file, tensor.device

    def __getitem__(self, name: str) -> Tensor:
        """
        Raises:
            KeyError: for a name that was not set.
        """
        if name not in self.spilled:
            return self.held[name]
        file, device = self.spilled[name]
        file.seek(0)
        return safetensors.torch.load(file.read())["tensor"].to(device)


BLOCKED = -1e4
"""An additive mask's numbers below this let nothing through."""


class RecordingCache:
    """Stands in for a cache in the base pass and keeps each layer's keys and values."""

    def __init__(self, kept: TensorStore) -> None:
        self.kept = kept

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        self.kept[f"key{layer}"], self.kept[f"value{layer}"] = key, value
        return key, value

    def get_seq_length(self, layer: int = 0) -> int:  # noqa: ARG002
        """As of an empty cache: the base pass begins at position 0."""
        return 0


KeysAndValues = dict[int, tuple[Tensor, Tensor]]


class PrefixCache:
    """Stands in for a cache in a replay: what was recorded of the first `positions` goes before what is computed.

    Args:
        kept: where a `Recorder` put it.
        positions: how many are re-used.
        copies: of the batch that are replayed at once.
        sink: layer ▸ keys and values of all positions, filled as the layers run; None where nobody needs them.
    """

    def __init__(self, kept: TensorStore, positions: int, copies: int, sink: KeysAndValues | None = None) -> None:
        self.kept, self.positions, self.copies, self.sink = kept, positions, copies, sink

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if self.positions:
            before = (self.kept[f"{name}{layer}"][:, :, : self.positions] for name in ("key", "value"))
            earlier_key, earlier_value = (tensor.repeat(self.copies, 1, 1, 1) for tensor in before)
            key, value = torch.cat((earlier_key, key), 2), torch.cat((earlier_value, value), 2)
        if self.sink is not None:
            self.sink[layer] = key, value
        return key, value

    def get_seq_length(self, layer: int = 0) -> int:  # noqa: ARG002
        return self.positions


def sees_ahead(mask: Any, start: int) -> bool:
    """Whether some position before `start` attends to one from `start` on.

    `mask` is a layer's: additive or bool [batch, heads, positions, positions], or None, which transformers gives where
    a plain causal mask is meant. Of any other kind it is taken to be so.
    """
    if mask is None:
        return False
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        return True
    ahead = mask[..., :start, start:]
    return bool((ahead if ahead.dtype == torch.bool else ahead > BLOCKED).any())


def layer_call(call: Mapping[str, Any], batch: int, start: int, copies: int) -> dict[str, Any]:
    """A layer's arguments in the base pass, for its last positions from `start` on and `copies` of the batch."""
    fitted = dict(call)
    mask = call.get("attention_mask")
    if isinstance(mask, Tensor):
        rows = mask[..., start:, :] if mask.dim() == 4 else mask
        fitted["attention_mask"] = _repeated(rows, 0, batch, copies)
    elif mask is None and start:
        fitted["attention_mask"] = _causal(call, start)
    embeddings = call.get("position_embeddings")
    if isinstance(embeddings, tuple):
        cut = (tensor[..., start:, :] for tensor in embeddings)
        fitted["position_embeddings"] = tuple(_repeated(tensor, tensor.dim() - 3, batch, copies) for tensor in cut)
    ids = call.get("position_ids")
    if isinstance(ids, Tensor):
        fitted["position_ids"] = _repeated(ids[..., start:], ids.dim() - 2, batch, copies)
    return fitted


def _causal(call: Mapping[str, Any], start: int) -> Tensor:
    """What None means, spelt out: a query of the last positions may not be taken for one of the first."""
    cos = call["position_embeddings"][0]
    positions = cos.shape[-2]
    visible = torch.ones(positions - start, positions, dtype=torch.bool, device=cos.device).tril(start)
    return visible[None, None]


def _repeated(tensor: Tensor, dim: int, batch: int, copies: int) -> Tensor:
    if copies == 1 or dim < 0 or tensor.shape[dim] != batch or batch == 1:
        return tensor
    return torch.cat([tensor] * copies, dim)
