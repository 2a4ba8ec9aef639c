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
from lmms_steer.replay.base_pass import next_token_logits
from lmms_steer.replay.changes import Change, Delta, Deltas
from lmms_steer.replay.setup import kept_positions
from lmms_steer.steering.anatomy import decoder_layers
from lmms_steer.steering.calls import continuation
from lmms_steer.steering.decoder_inputs import decoder_ids
from lmms_steer.steering.hooks import steer
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.resolved import ResolvedSpec
from lmms_steer.steering.site_tensor import per_position, register_hook
from lmms_steer.steering.sites import Site, sites
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
        self._seen: list[Tensor] | None = None

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
        site = sites.get(spec.spec.interventions[0].site)
        with ExitStack() as stack:
            if site.tower == "decoder":
                stack.enter_context(self._media.reusing())
            stack.enter_context(steer(self.model, spec, None, self.special_ids))
            for before in (True, False):
                stack.enter_context(self._looking(site, layer, before))
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

    @contextmanager
    def watching(self) -> Iterator[list[Tensor]]:
        """A context in which the next forward call of a cell is watched: its site's tensor before and after the cell.

        Yields:
            filled with the two, [batch, positions, width].
        """
        seen: list[Tensor] = []
        self._seen = seen
        try:
            yield seen
        finally:
            self._seen = None

    @contextmanager
    def _looking(self, site: Site, layer: int, before: bool) -> Iterator[None]:
        seen, shape = self._seen, tuple(decoder_ids(self.inputs).shape)
        if seen is None:
            yield
            return

        def look(value: Any) -> None:
            # the calls after the first have one new token each
            if len(seen) < 2:
                seen.append(per_position(value, shape, layer, site.name))

        handle = register_hook(site, decoder_layers(self.model), layer, look, prepend=before)
        try:
            yield
        finally:
            handle.remove()

    @torch.inference_mode()
    def _logits(self) -> Tensor:
        with nullcontext() if self.scored is None else continuation(self.scored):
            return next_token_logits(self.model, self.inputs, kept_positions(self.scored), self.generates)
