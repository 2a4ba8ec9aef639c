"""Steer a batch by full forward passes with hooks: for models that cannot be replayed, and to check replays.

The check compares what steering changes in the logits, not only the logits: in bfloat16 the whole effect of a weak cell
may be smaller than the rounding of the logits, so that a replay that does not steer at all would pass.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lmms_steer.search.base_pass import last_logits
from lmms_steer.search.replay import Replay, kept_positions, tolerance
from lmms_steer.steering.calls import continuation
from lmms_steer.steering.hooks import steer
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.resolve import ResolvedSpec
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.steering_vectors import SteeringVectors

MIN_EFFECT_RATIO = 4
"""Minimum ratio of a cell's effect to a replay's rounding for the check to be conclusive."""
MAX_ERROR_SHARE = 1 / 2
"""The share of a cell's effect by which a replay may be off. One that does not steer is off by all of it."""


class HookedBatch:
    """One batch of prompts, with the interface of `Replay`; every cell is one full forward pass.

    Args:
        model, inputs, special_ids, scored: as for `Replay` and its options.
    """

    def __init__(
        self,
        model: Any,
        inputs: dict[str, Any],
        special_ids: Collection[int] | None = None,
        scored: Tensor | None = None,
    ) -> None:
        self.model, self.inputs, self.special_ids, self.scored = model, inputs, special_ids, scored

    @cached_property
    def base(self) -> Tensor:
        """The unsteered logits of the next token, as `Replay.base`."""
        return self._logits()

    def steered(self, layer: int, delta: Tensor, tokens: str) -> AbstractContextManager[Any]:
        """A context in which the model adds `delta` [width] at a layer's output."""
        vector = SteeringVectors({layer: delta.float().cpu().numpy()}, {})
        spec = ResolvedSpec(SteeringSpec((Intervention("v", layer, 1.0, tokens),)), (vector,))
        return steer(self.model, spec, special_ids=self.special_ids)

    def steer(self, layer: int, delta: Tensor, tokens: str) -> Tensor:
        """Steer one cell, as `Replay.steer` does."""
        with self.steered(layer, delta, tokens):
            return self._logits()

    def steer_all(self, layer: int, deltas: Tensor, targets: Sequence[str], columns: Tensor | None = None) -> Tensor:
        """Steer several cells of one layer, as `Replay.steer_all` does."""
        selected = slice(None) if columns is None else columns.to(self.base.device)
        return self.reduce_all(layer, deltas, targets, lambda logits: logits[..., selected])

    def reduce_all(
        self, layer: int, deltas: Tensor, targets: Sequence[str], reduce: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Steer several cells of one layer, as `Replay.reduce_all` does."""
        cells = zip(deltas, targets, strict=True)
        return torch.cat([reduce(self.steer(layer, delta, tokens)[None]) for delta, tokens in cells])

    @torch.inference_mode()
    def _logits(self) -> Tensor:
        with nullcontext() if self.scored is None else continuation(self.scored):
            return last_logits(self.model, self.inputs, kept_positions(self.scored))


def same_logits(replay: Replay, hooked: HookedBatch, layer: int, delta: Tensor, tokens: str) -> bool:
    """Whether a replay gives a cell the logits of the model with hooks, up to rounding, and the same effect.

    Args:
        replay, hooked: the same batch.
        layer, delta, tokens: the cell, as for `Replay.steer`.
    """
    ours, theirs = (source.steer(layer, delta, tokens).float() for source in (replay, hooked))
    near = float((ours - theirs).abs().max()) <= tolerance(hooked.base)
    return near and _same_change(replay, hooked, ours, theirs, tokens)


def same_effect(replay: Replay, hooked: HookedBatch, layer: int, delta: Tensor, tokens: str) -> bool:
    """Whether a replay changes the logits as the model with hooks does, each compared with its own unsteered logits.

    Args:
        replay, hooked, layer, delta, tokens: as for `same_logits`.
    """
    ours, theirs = (source.steer(layer, delta, tokens).float() for source in (replay, hooked))
    return _same_change(replay, hooked, ours, theirs, tokens)


def _same_change(replay: Replay, hooked: HookedBatch, ours: Tensor, theirs: Tensor, tokens: str) -> bool:
    before, base = hooked.base.float(), replay.base.float()
    expected = theirs - before
    effect = float(expected.norm())
    # `generate` may number padded positions differently, which rounds differently
    rounding = max(replay.rounding[replay.starts[tokens]], float((base - before).norm()))
    least = 2 * torch.finfo(hooked.base.dtype).eps * float(before.norm())
    if effect <= max(MIN_EFFECT_RATIO * rounding, least):
        return True
    return float((ours - base - expected).norm()) <= MAX_ERROR_SHARE * effect
