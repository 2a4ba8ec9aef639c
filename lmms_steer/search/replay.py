"""Steer a layer again and again without what cannot change: vision tower, embeddings and the layers up to it run once.

With the intervention at layer l, all below it is the same for every strength and token target. One base pass keeps each
layer's output and the arguments that each was called with; a cell of the search then runs layers l+1 … only. Cells of
one layer are stacked into one batch. Where a model is causal, the positions before the first steered one are the same
too: their keys and values are kept, and only what stands behind them runs.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.models.batches import StackRunner
from lmms_steer.search.base_pass import BasePass
from lmms_steer.search.kv_cache import KeysAndValues, PrefixCache, TensorStore, layer_call, sees_ahead
from lmms_steer.steering.anatomy import decoder_layers, image_token_ids, text_config
from lmms_steer.steering.operations import add_masked
from lmms_steer.steering.positions import token_mask


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """
    Attributes:
        targets: the token targets that will be asked for.
        special_ids: the tokenizer's, for the targets `text_paper` and `both_paper`.
        budget: bytes of a base pass to hold in memory, the rest goes to `folder`; None holds all.
        folder: for what is beyond the budget.
        generates: whether text will be generated behind replayed prompts: all keys and values are kept.
        room: on the device, where several replays share what they learn of it.
    """

    targets: Sequence[str] = ("image", "text", "both")
    special_ids: Collection[int] = ()
    budget: int | None = None
    folder: Path | None = None
    generates: bool = False
    room: StackRunner | None = None


class Replay:
    """One batch of prompts, ready to be steered at any layer.

    Args:
        model: an image-text-to-text model of transformers.
        inputs: what its processor gave for the batch, left-padded, so that the last position is the prompt's end.
        options: see there.

    Attributes:
        base: the unsteered logits of the next token, [batch, vocabulary].
        starts: target ▸ first position that is replayed; what is before it is re-used.
        rounding: start ▸ how far a replay from there without steering is from `base`, as the norm of the difference.

    Raises:
        RuntimeError: when replaying without steering does not give the model's own logits; such a model is to be
            searched through its hooks.
    """

    @torch.inference_mode()
    def __init__(self, model: nn.Module, inputs: dict[str, Any], options: ReplayOptions | None = None) -> None:
        options = options or ReplayOptions()
        self.model, self.layers = model, decoder_layers(model)
        self.kept = TensorStore(options.budget, options.folder)
        ids, attention = inputs["input_ids"], inputs.get("attention_mask")
        self.batch, self.positions = ids.shape
        image_ids = image_token_ids(model.config)
        self.masks = {
            tokens: token_mask(ids, attention, image_ids, tokens, special_ids=options.special_ids)
            for tokens in options.targets
        }
        self.starts = {tokens: _first(mask) for tokens, mask in self.masks.items()}
        self.generates, self.room = options.generates, options.room or StackRunner(ids.device)
        unsteered = BasePass(model, self.layers, self.kept, keys=self.generates or any(self.starts.values()))
        self.base, self.rounding = unsteered.run(inputs, self.generates), dict[int, float]()
        self.calls, self.between = unsteered.calls, unsteered.between
        later = {start for start in self.starts.values() if start}
        if later and not (self._causal(later) and not any(map(self._off, later))):
            self.starts = dict.fromkeys(self.starts, 0)
        if 0 in self.starts.values() and (error := self._off(0)):
            raise RuntimeError(f"a replay of {type(model).__name__} without steering is off by {error:.3g}")

    def steer(self, layer: int, delta: Tensor, tokens: str) -> Tensor:
        """Logits of the next token [batch, vocabulary] with `delta` = alpha * v [width] added at layer's output."""
        return self.steer_all(layer, delta[None], [tokens])[0]

    @torch.inference_mode()
    def steer_all(self, layer: int, deltas: Tensor, targets: Sequence[str], columns: Tensor | None = None) -> Tensor:
        """Logits [cells, batch, columns] of several cells of a layer.

        Args:
            layer: the steered layer.
            deltas: alpha * v of each cell, [cells, width].
            targets: the token target of each.
            columns: the ids of the vocabulary that are wanted; all where None.
        """
        wanted = slice(None) if columns is None else columns.to(self.base.device)

        def logits(start: int, cells: list[int]) -> list[Tensor]:
            hidden = self._moved(layer, deltas[cells], [targets[i] for i in cells], start)
            return list(self._finish(layer, hidden, start, len(cells))[..., wanted])

        return torch.stack(self.in_stacks(targets, logits))

    @torch.inference_mode()
    def steer_and_keep(
        self, layer: int, deltas: Tensor, targets: Sequence[str], start: int
    ) -> tuple[Tensor, KeysAndValues]:
        """Cells that are replayed from one position on, with what is needed to generate on.

        Returns:
            logits [cells, batch, vocabulary]; every layer's keys and values [cells * batch, heads, positions, width].
        """
        below = ((self.kept[f"key{n}"], self.kept[f"value{n}"]) for n in range(layer + 1))
        copies = len(targets)
        sink = {n: (k.repeat(copies, 1, 1, 1), v.repeat(copies, 1, 1, 1)) for n, (k, v) in enumerate(below)}
        hidden = self._moved(layer, deltas, targets, start)
        return self._finish(layer, hidden, start, copies, sink), sink

    def in_stacks(self, targets: Sequence[str], run: Callable[[int, list[int]], list[Tensor]]) -> list[Tensor]:
        """What `run` gives for each cell, as many of them at once as the device has room for.

        Args:
            targets: the token target of each cell.
            run: takes the position from which cells are replayed, and their places.
        """
        done: dict[int, Tensor] = {}
        for start in sorted(set(self.starts.values())):
            alike = [i for i, tokens in enumerate(targets) if self.starts[tokens] == start]
            made = self.room.stacked(alike, self.batch * (self.positions - start), partial(run, start))
            done |= zip(alike, made, strict=True)
        return [done[i] for i in range(len(targets))]

    def _moved(self, layer: int, deltas: Tensor, targets: Sequence[str], start: int) -> Tensor:
        output = self.kept[f"out{layer}"][:, start:]
        masks = torch.stack([self.masks[tokens][:, start:] for tokens in targets])
        return add_masked(output, deltas.to(output)[:, None, None], masks).flatten(0, 1)

    def _finish(self, layer: int, hidden: Tensor, start: int, copies: int, sink: KeysAndValues | None = None) -> Tensor:
        """Logits [copies, batch, vocabulary]; `hidden` [copies * batch, positions - start, width]."""
        last = len(self.layers) - 1
        for number in range(layer + 1, last + 1):
            added = self.between[number]
            if added is not None:
                hidden = hidden + added[:, start:].repeat(copies, 1, 1)
            call = layer_call(self.calls[number], self.batch, start, copies)
            if start or sink is not None:
                call["past_key_values"] = PrefixCache(self.kept, start, copies, sink)
            with _for_the_answer(self.layers[number]) if number == last else nullcontext():
                out = self.layers[number](hidden, **call)
            hidden = out[0] if isinstance(out, tuple) else out
        hidden = self.model.get_decoder().norm(hidden[:, -1:])  # type: ignore[operator, union-attr]
        logits: Tensor = self.model.get_output_embeddings()(hidden)[:, -1]  # type: ignore[operator]
        cap = getattr(text_config(self.model), "final_logit_softcapping", None)
        capped: Tensor = logits if cap is None else torch.tanh(logits / cap) * cap
        return capped.reshape(copies, self.batch, -1)

    def _off(self, start: int) -> float:
        """How far a replay without steering is from the model's own logits; 0 for what rounding explains."""
        try:
            replayed = self._finish(0, self.kept["out0"][:, start:], start, 1)[0]
        except (KeyError, TypeError):
            # the model's attention takes no cache of this kind: nothing was recorded
            return float("inf")
        difference = (replayed - self.base).float()
        error, self.rounding[start] = float(difference.abs().max()), float(difference.norm())
        return 0.0 if error <= tolerance(self.base) else error

    def _causal(self, starts: Collection[int]) -> bool:
        masks = {id(mask): mask for mask in (call.get("attention_mask") for call in self.calls)}
        return not any(sees_ahead(mask, start) for mask in masks.values() for start in starts)


@contextmanager
def _for_the_answer(layer: nn.Module) -> Iterator[None]:
    """In the last layer only the last position counts: its MLP runs there alone, and adds the same to all others."""
    mlp = getattr(layer, "mlp", None)
    if not isinstance(mlp, nn.Module):
        yield
        return
    handle = mlp.register_forward_pre_hook(lambda _, args: (args[0][:, -1:], *args[1:]) if args else None)
    try:
        yield
    finally:
        handle.remove()


def tolerance(logits: Tensor) -> float:
    """How far the same computation in other batches may be off: 1e-4 of the largest logit in float32, 5% below it."""
    share = 1e-4 if logits.dtype == torch.float32 else 5e-2
    return share * max(1.0, float(logits.abs().max()))


def _first(mask: Tensor) -> int:
    """The first position that is true in any row."""
    columns = mask.any(0)
    return int(columns.float().argmax()) if bool(columns.any()) else 0
