"""A model's decoder layers, which run again from what one unsteered pass recorded."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.replay.base_pass import BasePass
from lmms_steer.replay.kv_cache import KeysAndValues, PrefixCache, layer_call, sees_ahead
from lmms_steer.replay.rounding import noise_ratio
from lmms_steer.replay.tensor_store import TensorStore
from lmms_steer.steering.anatomy import decoder_layers, final_norm, shares_keys, text_config
from lmms_steer.steering.cache_argument import cache_name


class RecordedLayers:
    """Runs some of the layers of a batch from the recorded output of the one below.

    Args:
        model: an image-text-to-text model of transformers.
        inputs: the batch as its processor gives it, padded on the left.
        tensors: where the pass is recorded; see `BasePass`.
        keys: whether keys and values are recorded, so that a run may begin at a later position.
        kept: how many last positions' logits are returned; None for the last one's alone.
        generates: whether text will be generated after the prompts.

    Attributes:
        layers: the decoder layers.
        base: the unsteered logits, [batch, vocabulary], or [batch, kept, vocabulary].
        tensors: as given.

    Raises:
        RuntimeError: for a model whose layers cannot run one by one.
    """

    def __init__(
        self, model: nn.Module, inputs: dict[str, Any], tensors: TensorStore, *, keys: bool, kept: int | None,
        generates: bool,
    ) -> None:  # fmt: skip
        self.layers, self.tensors = decoder_layers(model), tensors
        if any(map(shares_keys, self.layers)):
            raise RuntimeError("its layers share keys and values, which a replay would take from the base pass")
        self._model, self._kept = model, kept
        unsteered = BasePass(model, self.layers, tensors, keys, kept)
        self.base = unsteered.run(inputs, generates)
        unsteered.check_additions(inputs)
        self._calls, self._added = unsteered.calls, unsteered.added
        if (skipped := len(self.layers) - len(self._calls)) > 0:
            raise RuntimeError(f"{skipped} of its layers do not run without an image, and a replay runs every layer")

    def output(self, layer: int) -> Tensor:
        """A layer's recorded output; of layer -1, the first layer's input."""
        return self.tensors["in0" if layer < 0 else f"out{layer}"]

    def run(self, layer: int) -> None:
        """Run one layer from its recorded input, for a hook that looks into it."""
        hidden, added = self.output(layer - 1), self._added[layer]
        call = layer_call(self._calls[layer], len(hidden), 0, 1)
        self.layers[layer](hidden if added is None else hidden + added, **call)

    def run_above(
        self, layer: int, hidden: Tensor, start: int, copies: int, sink: KeysAndValues | None = None,
        whole: int | None = None,
    ) -> Tensor:  # fmt: skip
        """Run the layers above one, and the head.

        Args:
            layer: the layer whose output is given; -1 for the first layer's input.
            hidden: that output from `start` on, [copies * batch, positions - start, width].
            start: the first position that is replayed.
            copies: how many copies of the batch are replayed at once.
            sink: filled with these layers' keys and values; None if they are not needed.
            whole: a layer that runs on all positions even if no later one reads them.

        Returns:
            logits like `base`, with a first dimension of copies.
        """
        last, batch = len(self.layers) - 1, len(hidden) // copies
        for number in range(layer + 1, last + 1):
            added = self._added[number]
            if added is not None:
                hidden = hidden + added[:, start:].repeat(copies, 1, 1)
            call = layer_call(self._calls[number], batch, start, copies)
            if start or sink is not None:
                call[cache_name(self.layers[number])] = PrefixCache(self.tensors, start, copies, sink)
            only_last = number == last and self._kept is None and number != whole
            with _mlp_at_last_position(self.layers[number]) if only_last else nullcontext():
                out = self.layers[number](hidden, **call)
            hidden = out[0] if isinstance(out, tuple) else out
        hidden = final_norm(self._model)(hidden[:, -(self._kept or 1) :])
        logits: Tensor = self._model.get_output_embeddings()(hidden)  # type: ignore[operator]
        cap = getattr(text_config(self._model), "final_logit_softcapping", None)
        capped: Tensor = logits if cap is None else torch.tanh(logits / cap) * cap
        return capped.reshape(copies, *self.base.shape)

    def noise_ratio(self, layer: int, start: int, rounded: Callable[[], Tensor]) -> float:
        """How far a run of the layers above one is from the model's own logits, in units of their rounding.

        Args:
            layer, start: as for `run_above`.
            rounded: gives the model's own logits under `random_rounding`; not called where nothing differs.
        """
        try:
            replayed = self.run_above(layer, self.output(layer)[:, start:], start, 1)[0]
        except (KeyError, TypeError):
            # the model's attention does not use a cache of this kind, so nothing was recorded
            return float("inf")
        if torch.equal(replayed.to(self.base), self.base):
            return 0.0
        return noise_ratio(replayed, self.base, rounded())

    def is_causal(self, starts: Collection[int]) -> bool:
        """Whether no position before any of these attends to it or a later one."""
        masks = {id(mask): mask for mask in (call.get("attention_mask") for call in self._calls)}
        return not any(sees_ahead(mask, start) for mask in masks.values() for start in starts)


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
