"""Write text after a batch of prompts: by the model itself, or from keys and values that were recorded or replayed."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lmms_steer.models.forced import forced_ids
from lmms_steer.replay.kv_cache import KeysAndValues
from lmms_steer.steering.anatomy import generating_part
from lmms_steer.steering.cache_argument import cache_name
from lmms_steer.steering.decoder_inputs import decoder_ids

_WITH_LOGITS = {"return_dict_in_generate": True, "output_logits": True}


class Writer:
    """Writes greedily after a batch of prompts.

    Args:
        model: the model, steered or not.
        inputs: the batch as the model takes it.
        settings: options of `generate`.
    """

    def __init__(self, model: Any, inputs: dict[str, Any], settings: Mapping[str, Any]) -> None:
        self.model, self.inputs, self.settings = model, inputs, settings

    @property
    def writes_one_token(self) -> bool:
        """Whether every text ends after its first token."""
        return bool(self.settings["max_new_tokens"] == 1)

    def write(self) -> Tensor:
        """What the model writes, ids [questions, new tokens]."""
        ids: Tensor = self.model.generate(**self.inputs, **self.settings)
        return ids[:, self._length :]

    def write_after(self, first: Tensor, keys_and_values: KeysAndValues, copies: int) -> Tensor:
        """The first tokens with the tokens that follow.

        Args:
            first: their ids, [copies * questions, 1].
            keys_and_values: those of the prompts, of each copy.
            copies: how many copies of the batch there are.

        Returns:
            ids [copies * questions, new tokens].
        """
        if self.writes_one_token:
            return first
        ids: Tensor = self._after(first, keys_and_values, copies, self.settings)
        return ids[:, self._length :]

    def logits(self, text: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """The model's logits of each token of a text, and the text.

        Args:
            text: ids [questions, new tokens]; None lets the model write.

        Returns:
            one tensor [questions, vocabulary] for each token, and the ids.
        """
        output = self.model.generate(
            **self.inputs, **{**self.settings, **forced_ids(text, self._length), **_WITH_LOGITS}
        )
        return output.logits, output.sequences[:, self._length :]

    def logits_after(
        self, first_logits: Tensor, text: Tensor, keys_and_values: KeysAndValues, copies: int
    ) -> tuple[Tensor, ...]:
        """The logits of each token of a text after prompts of which keys and values are known.

        Args:
            first_logits: the logits of its first token, [copies * questions, vocabulary].
            text: ids [copies * questions, new tokens].
            keys_and_values, copies: as for `write_after`.

        Returns:
            one tensor [copies * questions, vocabulary] for each token.
        """
        if text.shape[1] == 1:
            return (first_logits,)
        settings = {**self.settings, **forced_ids(text, self._length), **_WITH_LOGITS}
        return first_logits, *self._after(text[:, :1], keys_and_values, copies, settings).logits

    @torch.inference_mode()
    def _after(self, first: Tensor, keys_and_values: KeysAndValues, copies: int, settings: Mapping[str, Any]) -> Any:
        """What `generate` returns after the first tokens [copies * questions, 1]."""
        cache = DynamicCache(config=self.model.config.get_text_config(decoder=True))
        for layer in sorted(keys_and_values):
            cache.update(*keys_and_values[layer], layer)
        types = {name: self.inputs[name] for name in ("token_type_ids", "mm_token_type_ids") if name in self.inputs}
        longer = {name: _extended(tensor, torch.zeros_like(first), copies) for name, tensor in types.items()}
        with _stacked_rope_deltas(self.model, copies):
            # the images are in the cache
            return self._generator.generate(
                input_ids=_extended(self.inputs["input_ids"], first, copies),
                attention_mask=_extended(self.inputs["attention_mask"], torch.ones_like(first), copies),
                **{cache_name(self._generator): cache},
                **longer,
                **{**settings, "max_new_tokens": int(settings["max_new_tokens"]) - 1},
            )

    def until_end(self, text: list[int]) -> list[int]:
        """A text's ids without the one that ends it and what follows."""
        ends = self._generator.generation_config.eos_token_id
        stops = ends if isinstance(ends, list) else [ends]
        return text[: next((place for place, token in enumerate(text) if token in stops), len(text))]

    @property
    def _generator(self) -> Any:
        """The model whose `generate` writes: in BLIP-2, the language model inside."""
        return generating_part(self.model) or self.model

    @property
    def _length(self) -> int:
        return int(decoder_ids(self.inputs).shape[1])


def _extended(tensor: Tensor, last: Tensor, copies: int) -> Tensor:
    return torch.cat((tensor.repeat(copies, 1), last), 1)


@contextmanager
def _stacked_rope_deltas(model: Any, copies: int) -> Iterator[None]:
    """Repeat what Qwen's models store for each prompt: how far its images shifted the positions."""
    inner: Any = getattr(model, "model", None)
    deltas = getattr(inner, "rope_deltas", None)
    if isinstance(deltas, Tensor):
        inner.rope_deltas = deltas.repeat(copies, 1)
    try:
        yield
    finally:
        if isinstance(deltas, Tensor):
            inner.rope_deltas = deltas
