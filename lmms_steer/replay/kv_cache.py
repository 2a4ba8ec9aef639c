"""Reuse a base pass for the positions before the first steered one: their keys and values do not change.

That holds in causal models only (`sees_ahead`). The base pass records keys and values (`RecordingCache`). A replay
calls a layer on the later positions alone, with arguments cut to them (`layer_call`) and the recorded keys and values
in front (`PrefixCache`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lmms_steer.replay.tensor_store import TensorStore

BLOCKED = -1e4
"""An additive attention mask hides a position where it is below this."""

KeysAndValues = dict[int, tuple[Tensor, Tensor]]
"""Layer ▸ keys and values, each [batch, heads, positions, width]."""


class RecordingCache:
    """Takes the place of a key-value cache in the base pass and records each layer's keys and values.

    Args:
        tensors: where they go, as `key0`, `value0`, …
    """

    def __init__(self, tensors: TensorStore) -> None:
        self.tensors = tensors

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Record a layer's keys and values and return them unchanged."""
        self.tensors[f"key{layer}"], self.tensors[f"value{layer}"] = key, value
        return key, value

    def get_seq_length(self, layer: int = 0) -> int:  # noqa: ARG002
        """The length of an empty cache: the base pass begins at position 0."""
        return 0


class PrefixCache:
    """Takes the place of a key-value cache in a replay and puts the recorded first positions in front.

    Args:
        tensors: where a `RecordingCache` stored them.
        positions: how many positions are reused.
        copies: how many copies of the batch are replayed at once.
        sink: filled with the keys and values of all positions as the layers run; None if they are not needed.
    """

    def __init__(self, tensors: TensorStore, positions: int, copies: int, sink: KeysAndValues | None = None) -> None:
        self.tensors, self.positions, self.copies, self.sink = tensors, positions, copies, sink

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return a layer's keys and values of all positions."""
        if self.positions:
            before = (self.tensors[f"{name}{layer}"][:, :, : self.positions] for name in ("key", "value"))
            earlier_key, earlier_value = (tensor.repeat(self.copies, 1, 1, 1) for tensor in before)
            key, value = torch.cat((earlier_key, key), 2), torch.cat((earlier_value, value), 2)
        if self.sink is not None:
            self.sink[layer] = key, value
        return key, value

    def get_seq_length(self, layer: int = 0) -> int:  # noqa: ARG002
        """The number of reused positions."""
        return self.positions


def sees_ahead(mask: Any, start: int) -> bool:
    """Whether some position before `start` attends to one from `start` on.

    Args:
        mask: a layer's attention mask: additive or bool [batch, heads, positions, positions], or None, which in
            transformers means a plain causal mask. Any other kind counts as one that sees ahead.
        start: a position.
    """
    if mask is None:
        return False
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        return True
    ahead = mask[..., :start, start:]
    return bool((ahead if ahead.dtype == torch.bool else ahead > BLOCKED).any())


def layer_call(call: Mapping[str, Any], batch: int, start: int, copies: int) -> dict[str, Any]:
    """Adapt a layer's arguments in the base pass to a replay.

    Args:
        call: the keyword arguments of the base pass.
        batch: its batch size.
        start: the first position that is replayed.
        copies: how many copies of the batch are replayed at once.
    """
    adapted = dict(call)
    mask = call.get("attention_mask")
    if isinstance(mask, Tensor):
        rows = mask[..., start:, :] if mask.dim() == 4 else mask
        adapted["attention_mask"] = _repeated(rows, 0, batch, copies)
    elif mask is None and start:
        adapted["attention_mask"] = _causal_mask(call, start)
    embeddings = call.get("position_embeddings")
    if isinstance(embeddings, tuple):
        cut = (tensor[..., start:, :] for tensor in embeddings)
        adapted["position_embeddings"] = tuple(_repeated(tensor, tensor.dim() - 3, batch, copies) for tensor in cut)
    ids = call.get("position_ids")
    if isinstance(ids, Tensor):
        adapted["position_ids"] = _repeated(ids[..., start:], ids.dim() - 2, batch, copies)
    return adapted


def _causal_mask(call: Mapping[str, Any], start: int) -> Tensor:
    """The mask that None stands for, written out: without it a later query would count as one of the first."""
    cos = call["position_embeddings"][0]
    positions = cos.shape[-2]
    visible = torch.ones(positions - start, positions, dtype=torch.bool, device=cos.device).tril(start)
    return visible[None, None]


def _repeated(tensor: Tensor, dim: int, batch: int, copies: int) -> Tensor:
    if copies == 1 or dim < 0 or tensor.shape[dim] != batch or batch == 1:
        return tensor
    return torch.cat([tensor] * copies, dim)
