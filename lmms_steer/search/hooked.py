"""Steer a batch by full forward passes with hooks: for models that cannot be replayed, and to check replays.

Its images are encoded once, unless a cell steers the encoder.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lmms_steer.models.encoded_media import EncodedMedia
from lmms_steer.search.base_pass import next_token_logits
from lmms_steer.search.changes import Change, Delta, Deltas
from lmms_steer.search.replay_setup import kept_positions
from lmms_steer.steering.anatomy import decoder_layers
from lmms_steer.steering.calls import continuation
from lmms_steer.steering.decoder_inputs import decoder_ids
from lmms_steer.steering.hooks import steer
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.resolved import ResolvedSpec
from lmms_steer.steering.site_tensor import per_position, register_hook
from lmms_steer.steering.sites import sites
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.steering_vectors import SteeringVectors


class HookedBatch:
    """One batch of prompts, with the interface of `Replay`; every cell is one full forward pass.

    Args:
        model, inputs, special_ids, scored, generates: as for `Replay` and its options.
    """

    def __init__(
        self,
        model: Any,
        inputs: dict[str, Any],
        special_ids: Collection[int] | None = None,
        scored: Tensor | None = None,
        generates: bool = False,
    ) -> None:
        self.model, self.inputs, self.special_ids, self.scored = model, inputs, special_ids, scored
        self.generates = generates
        self._media = EncodedMedia(model)

    @cached_property
    def base(self) -> Tensor:
        """The unsteered logits of the next token, as `Replay.base`."""
        with self._media.reusing():
            return self._logits()

    @contextmanager
    def steered(self, layer: int, delta: Delta, tokens: str) -> Iterator[None]:
        """A context in which the model is steered by one cell."""
        if isinstance(delta, Change):
            spec = delta.at(layer, tokens)
        else:
            vector = SteeringVectors({layer: delta.float().cpu().numpy()}, {})
            spec = ResolvedSpec(SteeringSpec((Intervention("v", layer, 1.0, tokens),)), (vector,))
        in_decoder = all(sites.get(one.site).tower == "decoder" for one in spec.spec.interventions)
        with self._media.reusing() if in_decoder else nullcontext(), steer(self.model, spec, None, self.special_ids):
            yield

    def steer(self, layer: int, delta: Delta, tokens: str) -> Tensor:
        """Steer one cell, as `Replay.steer` does."""
        with self.steered(layer, delta, tokens):
            return self._logits()

    def steer_all(self, layer: int, deltas: Deltas, targets: Sequence[str], columns: Tensor | None = None) -> Tensor:
        """Steer several cells of one layer, as `Replay.steer_all` does."""
        selected = slice(None) if columns is None else columns.to(self.base.device)
        return self.reduce_all(layer, deltas, targets, lambda logits: logits[..., selected])

    def reduce_all(
        self, layer: int, deltas: Deltas, targets: Sequence[str], reduce: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Steer several cells of one layer, as `Replay.reduce_all` does."""
        cells = zip(deltas, targets, strict=True)
        return torch.cat([reduce(self.steer(layer, delta, tokens)[None]) for delta, tokens in cells])

    def steered_output(self, layer: int, delta: Tensor, tokens: str) -> Tensor:
        """The steered layer's output, [batch, positions, width]; arguments as for `steer`."""
        outputs: list[Any] = []
        with self.steered(layer, delta, tokens):
            # hooks run in the order in which they were added: this one comes after the steering
            handle = decoder_layers(self.model)[layer].register_forward_hook(
                lambda module, args, output: outputs.append(output)  # noqa: ARG005
            )
            try:
                self._logits()
            finally:
                handle.remove()
        first: Tensor = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
        return first

    def changed_positions(self, layer: int, change: Change, tokens: str) -> Tensor:
        """Where a cell changes its site's tensor, as `Replay.changed_positions`."""
        (intervention,) = change.resolved.spec.interventions
        place = sites.get(intervention.site), decoder_layers(self.model), layer
        shape, seen = tuple(decoder_ids(self.inputs).shape), list[Tensor]()

        def look(value: Any) -> None:
            seen.append(per_position(value, shape, layer, intervention.site))

        # hooks run in the order in which they were added
        with ExitStack() as stack:
            stack.callback(register_hook(*place, look).remove)
            stack.enter_context(self.steered(layer, change, tokens))
            stack.callback(register_hook(*place, look).remove)
            self._logits()
        return (seen[1] != seen[0]).any(-1)

    @torch.inference_mode()
    def _logits(self) -> Tensor:
        with nullcontext() if self.scored is None else continuation(self.scored):
            return next_token_logits(self.model, self.inputs, kept_positions(self.scored), self.generates)
