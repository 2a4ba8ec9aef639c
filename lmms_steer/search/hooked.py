"""What `Replay` offers, by full forwards with hooks: for models that it cannot do, and to check the others."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lmms_steer.intervention.hooks import steer
from lmms_steer.resolved import ResolvedSpec
from lmms_steer.spec import Intervention, SteeringSpec
from lmms_steer.vectors import SteeringVectors


class Hooked:
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
