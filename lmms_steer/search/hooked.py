"""What `Replay` offers, by full forwards with hooks: for models that it cannot do, and to check the others.

Whether a replayed cell is what the model with hooks gives, told with power in bfloat16 too.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lmms_steer.search.replay import Replay, tolerance
from lmms_steer.steering.hooks import steer
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.resolve import ResolvedSpec
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.steering_vectors import SteeringVectors


class HookedBatch:
    """One batch of prompts, steered by one whole forward a cell.

    Args:
        model, inputs, special_ids: as for `Replay`.
    """

    def __init__(self, model: Any, inputs: dict[str, Any], special_ids: Collection[int] = ()) -> None:
        self.model, self.inputs, self.special_ids = model, inputs, special_ids

    @cached_property
    def base(self) -> Tensor:
        """The unsteered logits of the next token, [batch, vocabulary]."""
        return self._logits()

    def steered(self, layer: int, delta: Tensor, tokens: str) -> AbstractContextManager[Any]:
        """Within it the model adds `delta` [width] at a layer's output."""
        vector = SteeringVectors({layer: delta.float().cpu().numpy()}, {})
        spec = ResolvedSpec(SteeringSpec((Intervention("v", layer, 1.0, tokens),)), (vector,))
        return steer(self.model, spec, special_ids=self.special_ids)

    def steer(self, layer: int, delta: Tensor, tokens: str) -> Tensor:
        """As `Replay.steer`."""
        with self.steered(layer, delta, tokens):
            return self._logits()

    def steer_all(self, layer: int, deltas: Tensor, targets: Sequence[str], columns: Tensor | None = None) -> Tensor:
        """As `Replay.steer_all`."""
        logits = [self.steer(layer, delta, tokens) for delta, tokens in zip(deltas, targets, strict=True)]
        return torch.stack([one if columns is None else one[:, columns.to(one.device)] for one in logits])

    @torch.inference_mode()
    def _logits(self) -> Tensor:
        logits: Tensor = self.model(**self.inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits


ABOVE = 4
"""So many times a replay's own rounding must a cell's effect be for its share to tell anything."""
SHARE = 1 / 2
"""Of a cell's effect, that a replay may be off by. One that does not steer is off by all of it."""


def same_logits(replay: Replay, hooked: HookedBatch, layer: int, delta: Tensor, tokens: str) -> bool:
    """Whether both give a cell the same logits, but for rounding, and move them alike."""
    ours, theirs = (source.steer(layer, delta, tokens).float() for source in (replay, hooked))
    near = float((ours - theirs).abs().max()) <= tolerance(hooked.base)
    return near and _moved_alike(replay, hooked, ours, theirs, tokens)


def same_effect(replay: Replay, hooked: HookedBatch, layer: int, delta: Tensor, tokens: str) -> bool:
    """Whether both move a cell's logits alike, each from its own unsteered ones."""
    ours, theirs = (source.steer(layer, delta, tokens).float() for source in (replay, hooked))
    return _moved_alike(replay, hooked, ours, theirs, tokens)


def _moved_alike(replay: Replay, hooked: HookedBatch, ours: Tensor, theirs: Tensor, tokens: str) -> bool:
    # what rounding explains is in bfloat16 more than the whole effect of a weak cell: a bound on logits alone passes
    # a replay that does not steer at all
    before, base = hooked.base.float(), replay.base.float()
    expected = theirs - before
    effect = float(expected.norm())
    # `generate` may number padded positions otherwise, which rounds otherwise
    rounding = max(replay.rounding[replay.starts[tokens]], float((base - before).norm()))
    least = 2 * torch.finfo(hooked.base.dtype).eps * float(before.norm())
    if effect <= max(ABOVE * rounding, least):
        return True
    return float((ours - base - expected).norm()) <= SHARE * effect
