"""Which positions of a batch are steered.

Which positions of a forward call belong to the prompt, and which come after it.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def token_mask(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    image_ids: Sequence[int],
    tokens: str,
    prompt: Tensor | None = None,
    special_ids: Collection[int] = (),
) -> Tensor:
    """The positions that `tokens` means.

    Args:
        input_ids: [batch, positions] of this forward call.
        attention_mask: [batch, past + positions] or None; its last columns tell padding from text.
        image_ids: the placeholder ids of `anatomy.image_token_ids`.
        tokens: `image`, `text` (every other position that is not padding, BOS and separators too), `both`, `last` (the
            last that is not padding), or `text_paper` / `both_paper`: text without special tokens and without the last
            token that is none, and with the images (the paper's released code).
        prompt: bool [batch, positions], the positions that are prompt; None where all are. `last` and the paper's
            masks count within it.
        special_ids: the tokenizer's, for the paper's masks.

    Returns:
        bool [batch, positions].
    """
    image = torch.zeros_like(input_ids, dtype=torch.bool)
    for image_id in image_ids:
        image |= input_ids == image_id
    if tokens == "image":
        return image
    real = torch.ones_like(image)
    if attention_mask is not None and attention_mask.dim() == 2:
        real = attention_mask[:, -input_ids.shape[1] :].to(device=image.device, dtype=torch.bool)
    if tokens == "both":
        return real
    if tokens == "text":
        return real & ~image
    counted = real if prompt is None else real & prompt
    if tokens == "last":
        return _last(counted)
    special = torch.zeros_like(image)
    for special_id in special_ids:
        special |= input_ids == special_id
    plain = counted & ~image & ~special
    text = plain & ~_last(plain)
    return text if tokens == "text_paper" else text | image


def _last(mask: Tensor) -> Tensor:
    """Of each row the last true position alone."""
    following = mask.flip(1).cumsum(1).flip(1)
    return mask & (following == 1)


_continuation: ContextVar[Tensor | None] = ContextVar("lmms_steer_continuation", default=None)


@contextmanager
def continuation(lengths: Tensor) -> Iterator[None]:
    """Inside, the last `lengths[row]` positions of every call are an answer that is being scored, not prompt.

    They stand where generated tokens would stand, so that scoring an answer and generating it see the same steering.

    Args:
        lengths: int [batch], counted from the right end.
    """
    token = _continuation.set(lengths)
    try:
        yield
    finally:
        _continuation.reset(token)


@dataclass(frozen=True, slots=True)
class ForwardCall:
    """One forward call of the whole model.

    Attributes:
        input_ids: [batch, positions].
        attention_mask: [batch, past + positions] or None.
        prompt: bool [batch, positions], or None where every position is prompt.
        prompt_length: how many positions are prompt, at most, in any row; 0 for a generated token.
        continues: whether a part of the prompt is in the cache already.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    prompt: Tensor | None
    prompt_length: int
    continues: bool = False


class PromptTracker:
    """Hooks on the whole model that tell the layer hooks what call is in progress.

    How the prompt is told from what follows (the decoder layers themselves do not learn it in transformers 5):

    * the cache is empty, or there is none: all positions are prompt, but for those of `continuation`;
    * the cache is filled and several positions come: the prompt goes on (chunked prefill, another turn);
    * the cache is filled and one position comes: a generated token, but for the last chunk of a prompt that goes on,
      whose attention mask is a longer piece of the mask that the chunk before had a piece of;
    * `use_cache=False`, and the ids are those of the call before plus one: generation without a cache, so that the
      prompt is as long as it was.

    Assisted decoding, which checks several generated tokens in one call, cannot be told from a prompt that goes on.
    """

    def __init__(self) -> None:
        self.call: ForwardCall | None = None
        self._last: ForwardCall | None = None

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        """The pre-hook."""
        input_ids = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(input_ids, Tensor):
            raise RuntimeError(
                "steering needs input_ids: with inputs_embeds alone, image and text cannot be told apart"
            )
        attention_mask = kwargs.get("attention_mask")
        if not isinstance(attention_mask, Tensor):
            attention_mask = None
        length, cache = self._prompt_length(input_ids, kwargs), kwargs.get("past_key_values")
        continues = cache is not None and length > 0 and int(cache.get_seq_length()) > 0
        self.call = ForwardCall(input_ids, attention_mask, _prompt_mask(input_ids, length), length, continues)

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        """The forward hook; it runs after a failed forward too."""
        self.call, self._last = None, self.call

    def _prompt_length(self, input_ids: Tensor, kwargs: dict[str, Any]) -> int:
        positions = input_ids.shape[1]
        cache = kwargs.get("past_key_values")
        if cache is not None and int(cache.get_seq_length()) > 0:
            return positions if positions > 1 or self._last_chunk(kwargs.get("attention_mask")) else 0
        last = self._last
        if kwargs.get("use_cache") is False and last is not None:
            longer_by_one = last.input_ids.shape == (input_ids.shape[0], positions - 1)
            if longer_by_one and torch.equal(last.input_ids, input_ids[:, :-1]):
                return last.prompt_length
        return positions

    def _last_chunk(self, mask: Any) -> bool:
        before = self._last.attention_mask if self._last is not None else None
        if not isinstance(mask, Tensor) or before is None:
            return False
        return mask.data_ptr() == before.data_ptr() and mask.shape[1] > before.shape[1]


def _prompt_mask(input_ids: Tensor, length: int) -> Tensor | None:
    positions = input_ids.shape[1]
    answers = _continuation.get()
    if answers is None and length == positions:
        return None
    place = torch.arange(positions, device=input_ids.device).expand_as(input_ids)
    if answers is None:
        return place < length
    return place < positions - answers.to(input_ids.device).unsqueeze(1)
