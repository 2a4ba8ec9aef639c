"""Steer one layer many times and run only what changes: vision tower, embeddings and lower layers run once.

With the intervention at layer l, everything up to it is the same for every alpha and token target. One base pass
records each layer's output and the arguments of its call; a cell then runs the layers above l only. For a site inside
of l, it runs l too, from its recorded input. Cells of one layer are stacked into one batch. In a causal model the
positions before the first steered one do not change either: their keys and values are recorded, and only the later
positions run.
"""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.errors import first_line
from lmms_steer.models.batches import StackRunner
from lmms_steer.replay.base_pass import next_token_logits
from lmms_steer.replay.changes import Change, Delta, Deltas, alone, changed, some_of
from lmms_steer.replay.kv_cache import KeysAndValues
from lmms_steer.replay.recorded_layers import RecordedLayers
from lmms_steer.replay.rounding import MAX_NOISE_RATIO, random_rounding
from lmms_steer.replay.setup import ReplayOptions, first_position, kept_positions, prompt_mask
from lmms_steer.replay.tensor_store import TensorStore
from lmms_steer.steering.gate_reader import GateReader
from lmms_steer.steering.operations import add_masked
from lmms_steer.steering.placeholders import placeholders
from lmms_steer.steering.positions import ids_of
from lmms_steer.steering.scaled_vectors import ActiveLayer
from lmms_steer.steering.site_tensor import per_position, register_hook
from lmms_steer.steering.sites import DEFAULT_SITE, Site, sites
from lmms_steer.steering.support import has_encoder


class Replay:
    """One batch of prompts, ready to be steered at any layer.

    Args:
        model: an image-text-to-text model of transformers.
        inputs: the batch as its processor gives it, padded on the left, so that prompts end at the last position.
        options: how it is set up; None for the defaults.

    Attributes:
        recorded: the decoder layers, and what one unsteered pass recorded of them.
        base: the unsteered logits of the next token, [batch, vocabulary]; of scored answers, those of every token of
            the longest answer, [batch, tokens, vocabulary].
        starts: target ▸ the first position that is replayed; the positions before it are reused.

    Raises:
        RuntimeError: if a replay without steering does not give the model's own logits, up to rounding. Such a model
            needs hooks.
    """

    @torch.inference_mode()
    def __init__(self, model: nn.Module, inputs: dict[str, Any], options: ReplayOptions | None = None) -> None:
        options = options or ReplayOptions()
        if has_encoder(model.config):
            raise RuntimeError("its decoder also reads an encoder, which a replay does not run")
        self.model = model
        self.tensors = TensorStore(options.budget, options.folder)
        self.site = sites.get(options.site)
        ids, attention = ids_of(inputs), inputs.get("attention_mask")
        self.batch, self.positions = ids.shape
        about = (ids, attention, placeholders(model.config))
        self._mask_of = partial(prompt_mask, *about, special_ids=options.special_ids, scored=options.scored)
        self.masks = {tokens: self._mask_of(tokens) for tokens in options.targets}
        self.kept = kept_positions(options.scored)
        latest = self.positions - (self.kept or 1)
        self.starts = {tokens: min(first_position(mask), latest) for tokens, mask in self.masks.items()}
        self.generates, self._runner = options.generates, options.runner or StackRunner(ids.device)
        keys = self.generates or any(self.starts.values())
        self.recorded = RecordedLayers(model, inputs, self.tensors, keys=keys, kept=self.kept, generates=self.generates)
        self.base = self.recorded.base
        self._site_tensors: dict[tuple[int, str], Tensor] = {}

        @cache
        def rounded() -> Tensor:
            with random_rounding(model):
                return next_token_logits(model, inputs, self.kept, self.generates)

        def noise(start: int) -> float:
            return self.recorded.noise_ratio(0 if self._at_output else -1, start, rounded)

        later = {start for start in self.starts.values() if start}
        if not (self.recorded.is_causal(later) and all(noise(start) <= MAX_NOISE_RATIO for start in later)):
            self.starts = dict.fromkeys(self.starts, 0)
        if 0 in self.starts.values() and (ratio := noise(0)) > MAX_NOISE_RATIO:
            name = type(model).__name__
            raise RuntimeError(f"a replay of {name} without steering is off by {ratio:.3g} times its rounding")

    @property
    def _at_output(self) -> bool:
        """Whether the steered tensors are the recorded outputs."""
        return self.site.name == DEFAULT_SITE

    def steer(self, layer: int, delta: Delta, tokens: str) -> Tensor:
        """Steer one cell.

        Args:
            layer: the steered layer.
            delta: what the cell does to it.
            tokens: the token target.

        Returns:
            the logits of the next token, [batch, vocabulary].
        """
        return self.steer_all(layer, alone(delta), [tokens])[0]

    @torch.inference_mode()
    def steer_all(self, layer: int, deltas: Deltas, targets: Sequence[str], columns: Tensor | None = None) -> Tensor:
        """Steer several cells of one layer.

        Args:
            layer: the steered layer.
            deltas: what each cell does to it.
            targets: the token target of each cell.
            columns: token ids whose logits are returned; None for all.

        Returns:
            the logits of the next token, [cells, batch, columns].
        """
        selected = slice(None) if columns is None else columns.to(self.base.device)
        return self.reduce_all(layer, deltas, targets, lambda logits: logits[..., selected])

    @torch.inference_mode()
    def reduce_all(
        self, layer: int, deltas: Deltas, targets: Sequence[str], reduce: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Steer several cells of one layer, and keep only what is computed from their logits.

        Args:
            layer, deltas, targets: as for `steer_all`.
            reduce: logits like `base`, with a first dimension of cells ▸ what is kept, with that dimension.

        Returns:
            what `reduce` returns, for all cells.
        """

        def reduced(start: int, cells: list[int]) -> list[Tensor]:
            return list(reduce(self._steered(layer, some_of(deltas, cells), [targets[i] for i in cells], start)))

        return torch.stack(self.in_stacks(targets, reduced))

    @torch.inference_mode()
    def steer_with_cache(
        self, layer: int, deltas: Deltas, targets: Sequence[str], start: int
    ) -> tuple[Tensor, KeysAndValues]:
        """Steer several cells of one layer and return the cache that generation continues from.

        Args:
            layer, deltas, targets: as for `steer_all`.
            start: the position that all of them are replayed from.

        Returns:
            the logits of the next token, [cells, batch, vocabulary]; every layer's keys and values, [cells * batch,
            heads, positions, width].
        """
        unchanged = layer + 1 if self._at_output else layer
        below = ((self.tensors[f"key{n}"], self.tensors[f"value{n}"]) for n in range(unchanged))
        copies = len(targets)
        sink = {n: (k.repeat(copies, 1, 1, 1), v.repeat(copies, 1, 1, 1)) for n, (k, v) in enumerate(below)}
        return self._steered(layer, deltas, targets, start, sink), sink

    @property
    def keys_and_values(self) -> KeysAndValues:
        """Every layer's recorded keys and values, each [batch, heads, positions, width]."""
        layers = range(len(self.recorded.layers))
        return {layer: (self.tensors[f"key{layer}"], self.tensors[f"value{layer}"]) for layer in layers}

    def in_stacks(self, targets: Sequence[str], run: Callable[[int, list[int]], list[Tensor]]) -> list[Tensor]:
        """Run cells in stacks that fit on the device.

        Args:
            targets: the token target of each cell.
            run: (the position from which cells are replayed, their places) ▸ a result for each.

        Returns:
            the results in the order of `targets`.
        """
        results: dict[int, Tensor] = {}
        for start in sorted(set(self.starts.values())):
            cells = [i for i, tokens in enumerate(targets) if self.starts[tokens] == start]
            stacked = self._runner.stacked(cells, self.batch * (self.positions - start), partial(run, start))
            results |= zip(cells, stacked, strict=True)
        return [results[i] for i in range(len(targets))]

    def steered_output(self, layer: int, deltas: Deltas, targets: Sequence[str], start: int) -> Tensor:
        """The steered layer's outputs from `start` on, [cells * batch, positions - start, width].

        Args:
            layer, deltas, targets: as for `steer_all`.
            start: the position that all of them are replayed from.
        """
        output = self.tensors[f"out{layer}"][:, start:]
        if not isinstance(deltas, Tensor):
            return self._changed(output.repeat(len(targets), 1, 1), layer, deltas, targets, start)
        masks = torch.stack([self.masks[tokens][:, start:] for tokens in targets])
        return add_masked(output, deltas.to(output)[:, None, None], masks).flatten(0, 1)

    @torch.inference_mode()
    def changed_positions(self, layer: int, change: Change, tokens: str) -> Tensor:
        """Where a cell changes its site's tensor, bool [batch, positions]."""
        before = self.site_tensor(layer, self.site)
        after = self._changed(before, layer, [change], [tokens], 0)
        return (after != before).any(-1)

    @torch.inference_mode()
    def site_tensor(self, layer: int, site: Site) -> Tensor:
        """The unsteered tensor of a site, [batch, positions, width]."""
        if site.name == DEFAULT_SITE:
            return self.tensors[f"out{layer}"]
        if (layer, site.name) not in self._site_tensors:
            # one layer after the other is steered
            self._site_tensors = {(layer, site.name): self._seen_at(layer, site)}
        return self._site_tensors[layer, site.name]

    def _seen_at(self, layer: int, site: Site) -> Tensor:
        seen: list[Tensor] = []

        def look(value: Any) -> None:
            seen.append(per_position(value, (self.batch, self.positions), layer, site.name))

        handle = register_hook(site, self.recorded.layers, layer, look)
        try:
            self.recorded.run(layer)
        finally:
            handle.remove()
        return seen[0]

    def _steered(
        self, layer: int, deltas: Deltas, targets: Sequence[str], start: int, sink: KeysAndValues | None = None
    ) -> Tensor:
        """Steer cells that are replayed from one position; the logits, with a first dimension of cells.

        Args:
            layer, deltas, targets, start: as for `steered_output`.
            sink: as for `RecordedLayers.run_above`.
        """
        copies = len(targets)
        if self._at_output:
            output = self.steered_output(layer, deltas, targets, start)
            return self.recorded.run_above(layer, output, start, copies, sink)
        assert not isinstance(deltas, Tensor)
        if any(change.gated for change in deltas):
            # what a gate reads is recorded before the layer is hooked
            self.site_tensor(layer, self.site)

        def act(value: Any) -> Tensor:
            shape = (copies * self.batch, self.positions - start)
            hidden = per_position(value, shape, layer, self.site.name)
            return self._changed(hidden, layer, deltas, targets, start).view(value.shape)

        handle = register_hook(self.site, self.recorded.layers, layer, act)
        try:
            hidden = self.recorded.output(layer - 1)[:, start:].repeat(copies, 1, 1)
            return self.recorded.run_above(layer - 1, hidden, start, copies, sink, whole=layer)
        finally:
            handle.remove()

    def _changed(
        self, hidden: Tensor, layer: int, changes: Sequence[Change], targets: Sequence[str], start: int
    ) -> Tensor:
        """The site's tensors of several cells, [cells * batch, positions - start, width], changed by each."""

        def decision_of(active: ActiveLayer) -> Tensor | None:
            return None if active.gate is None else self._decision(active)[:, start:]

        def mask_of(tokens: str) -> Tensor:
            return self._mask(tokens)[:, start:]

        pieces = zip(changes, targets, hidden.chunk(len(changes)), strict=True)
        return torch.cat([changed(one.at(layer, tokens), own, mask_of, decision_of) for one, tokens, own in pieces])

    def _decision(self, active: ActiveLayer) -> Tensor:
        """Where a gate lets an intervention act, bool [batch, positions]: it reads what is not steered yet."""
        assert active.gate is not None
        reader = GateReader(active.intervention, active.gate)
        hidden = self.site_tensor(reader.layer, reader.site)
        if reader.read == "token":
            return reader.fires(hidden)
        return reader.of_prompts(hidden, self._mask(reader.prompt_tokens)).expand(-1, self.positions)

    def _mask(self, tokens: str) -> Tensor:
        if tokens not in self.masks:
            self.masks[tokens] = self._mask_of(tokens)
        return self.masks[tokens]


def try_replay(model: nn.Module, inputs: dict[str, Any], options: ReplayOptions) -> tuple[Replay | None, str]:
    """Prepare a replay of a batch; None, and why, for a model that needs hooks."""
    try:
        return Replay(model, inputs, options), ""
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AttributeError, TypeError, LookupError) as error:
        # a model may need more of its cache than `RecordingCache` offers, or call its layers differently
        return None, first_line(error)
