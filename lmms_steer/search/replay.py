"""Steer one layer many times and run only what changes: vision tower, embeddings and lower layers run once.

With the intervention at layer l, everything up to it is the same for every alpha and token target. One base pass
records each layer's output and the arguments of its call; a cell then runs the layers above l only. Cells of one layer
are stacked into one batch. In a causal model the positions before the first steered one do not change either: their
keys and values are recorded, and only the later positions run.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.errors import first_line
from lmms_steer.models.batches import StackRunner
from lmms_steer.search.base_pass import BasePass, next_token_logits
from lmms_steer.search.kv_cache import KeysAndValues, PrefixCache, layer_call, sees_ahead
from lmms_steer.search.rounding import MAX_NOISE_RATIO, noise_ratio, random_rounding
from lmms_steer.search.tensor_store import TensorStore
from lmms_steer.steering.anatomy import decoder_layers, inner_decoder, shares_keys, text_config
from lmms_steer.steering.operations import add_masked
from lmms_steer.steering.placeholders import Placeholders, placeholders
from lmms_steer.steering.positions import token_mask


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How a replay is set up.

    Attributes:
        targets: the token targets that will be used.
        special_ids: the tokenizer's special tokens, for the targets `text_paper` and `both_paper`.
        budget: bytes of a base pass to hold in memory; None holds everything.
        folder: where the rest goes.
        generates: whether text will be generated after replayed prompts, which needs all keys and values.
        runner: chooses how many cells run at once; shared by replays on one device. None makes a new one.
        scored: for prompts that are followed by answers to be scored: how many of each row's last positions are its
            answer's, int [batch]. They are not steered. None for prompts alone.
    """

    targets: Sequence[str] = ("image", "text", "both")
    special_ids: Collection[int] | None = None
    budget: int | None = None
    folder: Path | None = None
    generates: bool = False
    runner: StackRunner | None = None
    scored: Tensor | None = None


class Replay:
    """One batch of prompts, ready to be steered at any layer.

    Args:
        model: an image-text-to-text model of transformers.
        inputs: the batch as its processor gives it, padded on the left, so that prompts end at the last position.
        options: how it is set up; None for the defaults.

    Attributes:
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
        self.model, self.layers = model, decoder_layers(model)
        if any(map(shares_keys, self.layers)):
            raise RuntimeError("its layers share keys and values, which a replay would take from the base pass")
        self.tensors = TensorStore(options.budget, options.folder)
        ids, attention = inputs["input_ids"], inputs.get("attention_mask")
        self.batch, self.positions = ids.shape
        media = placeholders(model.config)
        self.masks = {
            tokens: prompt_mask(ids, attention, media, tokens, options.special_ids, options.scored)
            for tokens in options.targets
        }
        self.kept = kept_positions(options.scored)
        latest = self.positions - (self.kept or 1)
        self.starts = {tokens: min(_first_position(mask), latest) for tokens, mask in self.masks.items()}
        self.generates, self._runner = options.generates, options.runner or StackRunner(ids.device)
        keys = self.generates or any(self.starts.values())
        unsteered = BasePass(model, self.layers, self.tensors, keys, self.kept)
        self.base = unsteered.run(inputs, self.generates)
        self._calls, self._added = unsteered.calls, unsteered.added

        @cache
        def rounded() -> Tensor:
            with random_rounding(model):
                return next_token_logits(model, inputs, self.kept, self.generates)

        later = {start for start in self.starts.values() if start}
        reusable = self._causal(later) and all(self._noise_ratio(start, rounded) <= MAX_NOISE_RATIO for start in later)
        if not reusable:
            self.starts = dict.fromkeys(self.starts, 0)
        if 0 in self.starts.values() and (ratio := self._noise_ratio(0, rounded)) > MAX_NOISE_RATIO:
            name = type(model).__name__
            raise RuntimeError(f"a replay of {name} without steering is off by {ratio:.3g} times its rounding")

    def steer(self, layer: int, delta: Tensor, tokens: str) -> Tensor:
        """Steer one cell.

        Args:
            layer: the steered layer.
            delta: alpha * v, [width], added at the layer's output.
            tokens: the token target.

        Returns:
            the logits of the next token, [batch, vocabulary].
        """
        return self.steer_all(layer, delta[None], [tokens])[0]

    @torch.inference_mode()
    def steer_all(self, layer: int, deltas: Tensor, targets: Sequence[str], columns: Tensor | None = None) -> Tensor:
        """Steer several cells of one layer.

        Args:
            layer: the steered layer.
            deltas: alpha * v of each cell, [cells, width].
            targets: the token target of each cell.
            columns: token ids whose logits are returned; None for all.

        Returns:
            the logits of the next token, [cells, batch, columns].
        """
        selected = slice(None) if columns is None else columns.to(self.base.device)
        return self.reduce_all(layer, deltas, targets, lambda logits: logits[..., selected])

    @torch.inference_mode()
    def reduce_all(
        self, layer: int, deltas: Tensor, targets: Sequence[str], reduce: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Steer several cells of one layer, and keep only what is computed from their logits.

        Args:
            layer, deltas, targets: as for `steer_all`.
            reduce: logits like `base`, with a first dimension of cells ▸ what is kept, with that dimension.

        Returns:
            what `reduce` returns, for all cells.
        """

        def reduced(start: int, cells: list[int]) -> list[Tensor]:
            hidden = self.steered_output(layer, deltas[cells], [targets[i] for i in cells], start)
            return list(reduce(self._finish(layer, hidden, start, len(cells))))

        return torch.stack(self.in_stacks(targets, reduced))

    @torch.inference_mode()
    def steer_with_cache(
        self, layer: int, deltas: Tensor, targets: Sequence[str], start: int
    ) -> tuple[Tensor, KeysAndValues]:
        """Steer several cells of one layer and return the cache that generation continues from.

        Args:
            layer, deltas, targets: as for `steer_all`.
            start: the position that all of them are replayed from.

        Returns:
            the logits of the next token, [cells, batch, vocabulary]; every layer's keys and values, [cells * batch,
            heads, positions, width].
        """
        below = ((self.tensors[f"key{n}"], self.tensors[f"value{n}"]) for n in range(layer + 1))
        copies = len(targets)
        sink = {n: (k.repeat(copies, 1, 1, 1), v.repeat(copies, 1, 1, 1)) for n, (k, v) in enumerate(below)}
        hidden = self.steered_output(layer, deltas, targets, start)
        return self._finish(layer, hidden, start, copies, sink), sink

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

    def steered_output(self, layer: int, deltas: Tensor, targets: Sequence[str], start: int) -> Tensor:
        """The steered layer's outputs from `start` on, [cells * batch, positions - start, width].

        Args:
            layer, deltas, targets: as for `steer_all`.
            start: the position that all of them are replayed from.
        """
        output = self.tensors[f"out{layer}"][:, start:]
        masks = torch.stack([self.masks[tokens][:, start:] for tokens in targets])
        return add_masked(output, deltas.to(output)[:, None, None], masks).flatten(0, 1)

    def _finish(self, layer: int, hidden: Tensor, start: int, copies: int, sink: KeysAndValues | None = None) -> Tensor:
        """Run the layers above `layer`.

        Args:
            layer: the layer whose output is given.
            hidden: that output from `start` on, [copies * batch, positions - start, width].
            start: the first position that is replayed.
            copies: how many copies of the batch are replayed at once.
            sink: filled with these layers' keys and values; None if they are not needed.

        Returns:
            logits like `base`, with a first dimension of copies.
        """
        last = len(self.layers) - 1
        for number in range(layer + 1, last + 1):
            added = self._added[number]
            if added is not None:
                hidden = hidden + added[:, start:].repeat(copies, 1, 1)
            call = layer_call(self._calls[number], self.batch, start, copies)
            if start or sink is not None:
                call["past_key_values"] = PrefixCache(self.tensors, start, copies, sink)
            only_last = number == last and self.kept is None
            with _mlp_at_last_position(self.layers[number]) if only_last else nullcontext():
                out = self.layers[number](hidden, **call)
            hidden = out[0] if isinstance(out, tuple) else out
        hidden = inner_decoder(self.model).norm(hidden[:, -(self.kept or 1) :])
        logits: Tensor = self.model.get_output_embeddings()(hidden)  # type: ignore[operator]
        cap = getattr(text_config(self.model), "final_logit_softcapping", None)
        capped: Tensor = logits if cap is None else torch.tanh(logits / cap) * cap
        return capped.reshape(copies, *self.base.shape)

    def _noise_ratio(self, start: int, rounded: Callable[[], Tensor]) -> float:
        """How far a replay without steering is from the model's own logits, in units of their rounding.

        Args:
            start: the first position that is replayed.
            rounded: gives the model's own logits under `random_rounding`; not called where nothing differs.
        """
        try:
            replayed = self._finish(0, self.tensors["out0"][:, start:], start, 1)[0]
        except (KeyError, TypeError):
            # the model's attention does not use a cache of this kind, so nothing was recorded
            return float("inf")
        if torch.equal(replayed.to(self.base), self.base):
            return 0.0
        return noise_ratio(replayed, self.base, rounded())

    def _causal(self, starts: Collection[int]) -> bool:
        masks = {id(mask): mask for mask in (call.get("attention_mask") for call in self._calls)}
        return not any(sees_ahead(mask, start) for mask in masks.values() for start in starts)


def try_replay(model: nn.Module, inputs: dict[str, Any], options: ReplayOptions) -> tuple[Replay | None, str]:
    """Prepare a replay of a batch; None, and why, for a model that needs hooks."""
    try:
        return Replay(model, inputs, options), ""
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AttributeError, TypeError, LookupError) as error:
        # a model may need more of its cache than `RecordingCache` offers, or call its layers differently
        return None, first_line(error)


@contextmanager
def _mlp_at_last_position(layer: nn.Module) -> Iterator[None]:
    """Run a layer's MLP at the last position only, as in the last layer no other position counts."""
    mlp = getattr(layer, "mlp", None)
    if not isinstance(mlp, nn.Module):
        yield
        return
    handle = mlp.register_forward_pre_hook(lambda _, args: (args[0][:, -1:], *args[1:]) if args else None)
    try:
        yield
    finally:
        handle.remove()


def kept_positions(scored: Tensor | None) -> int | None:
    """How many last positions predict a token of some scored answer; None without scored answers.

    The last prompt position predicts an answer's first token, and its last token predicts nothing.
    """
    return None if scored is None else int(scored.max()) + 1


def prompt_mask(
    ids: Tensor, attention: Tensor | None, media: Placeholders, tokens: str, special_ids: Collection[int] | None,
    scored: Tensor | None,
) -> Tensor:  # fmt: skip
    """The positions that are steered, bool [batch, positions]: those of a target, without scored answers.

    Args:
        ids, attention: of the batch.
        media, tokens, special_ids: as for `lmms_steer.steering.positions.token_mask`.
        scored: as in `ReplayOptions`.
    """
    if scored is None:
        return token_mask(ids, attention, media, tokens, special_ids=special_ids)
    places = torch.arange(ids.shape[1], device=ids.device)
    prompt = places < (ids.shape[1] - scored.to(ids.device))[:, None]
    return token_mask(ids, attention, media, tokens, prompt, special_ids) & prompt


def _first_position(mask: Tensor) -> int:
    """The first position that is true in any row; 0 if there is none."""
    columns = mask.any(0)
    return int(columns.float().argmax()) if bool(columns.any()) else 0
