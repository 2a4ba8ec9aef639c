"""Which positions of a forward call are steered: those of the chosen tokens, in the chosen phase.

`token_mask` selects positions by the kind of token. `PromptTracker` works out which positions belong to the prompt and
which come after it, because a decoder layer in transformers 5 does not know where in the sequence it is.
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
    """The positions that `tokens` selects.

    Args:
        input_ids: [batch, positions] of this forward call.
        attention_mask: [batch, past + positions] or None; its last columns mark padding.
        image_ids: the placeholder ids of `anatomy.image_token_ids`.
        tokens: `image`; `text`, every other position that is not padding, including BOS and separators; `both`; `last`,
            the last position that is not padding; or the masks of the paper's released code: `text_paper`, text without
            special tokens and without the last token that is not special, and `both_paper`, that and the images.
        prompt: bool [batch, positions], the positions of the prompt; None if all are. `last` and the paper's masks
            look at these only.
        special_ids: the tokenizer's special ids, for the paper's masks.

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
    in_prompt = real if prompt is None else real & prompt
    if tokens == "last":
        return _last_true(in_prompt)
    special = torch.zeros_like(image)
    for special_id in special_ids:
        special |= input_ids == special_id
    plain = in_prompt & ~image & ~special
    text = plain & ~_last_true(plain)
    return text if tokens == "text_paper" else text | image


def _last_true(mask: Tensor) -> Tensor:
    """A mask of only the last true position of each row."""
    following = mask.flip(1).cumsum(1).flip(1)
    return mask & (following == 1)


_continuation: ContextVar[Tensor | None] = ContextVar("lmms_steer_continuation", default=None)


@contextmanager
def continuation(lengths: Tensor) -> Iterator[None]:
    """Mark the last `lengths[row]` positions of every forward call in the block as a scored answer, not prompt.

    They are treated as generated tokens, so that scoring an answer and generating it see the same steering.

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
        prompt: bool [batch, positions], or None if every position is prompt.
        prompt_length: the largest number of prompt positions in a row; 0 for a generated token.
        continues: whether an earlier part of the prompt is in the cache already.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    prompt: Tensor | None
    prompt_length: int
    continues: bool = False


class PromptTracker:
    """Hooks on the whole model that show the layer hooks the call in progress.

    The prompt is distinguished from what follows it by these rules:

    * With an empty cache, or none, all positions are prompt, except those of `continuation`.
    * With a filled cache, several positions are a continued prompt (chunked prefill, or another turn).
    * With a filled cache, one position is a generated token. The exception is a last chunk of one position in a chunked
      prefill: its attention mask is a longer slice of the tensor that the previous chunk's mask was a slice of.
    * With `use_cache=False`, ids that are those of the previous call plus one are generation without a cache. The
      prompt is then as long as before.

    Assisted decoding checks several generated tokens in one call and cannot be distinguished from a continued prompt.
    """

    def __init__(self) -> None:
        self.call: ForwardCall | None = None
        self._last: ForwardCall | None = None

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        """The forward pre-hook.

        Raises:
            RuntimeError: for a call without `input_ids`.
        """
        input_ids = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(input_ids, Tensor):
            raise RuntimeError("steering needs input_ids: inputs_embeds do not show which positions are images")
        attention_mask = kwargs.get("attention_mask")
        if not isinstance(attention_mask, Tensor):
            attention_mask = None
        length, cache = self._prompt_length(input_ids, kwargs), kwargs.get("past_key_values")
        continues = cache is not None and length > 0 and int(cache.get_seq_length()) > 0
        self.call = ForwardCall(input_ids, attention_mask, _prompt_mask(input_ids, length), length, continues)

    def after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        """The forward hook, which also runs after a forward that failed."""
        self.call, self._last = None, self.call

    def _prompt_length(self, input_ids: Tensor, kwargs: dict[str, Any]) -> int:
        positions = input_ids.shape[1]
        cache = kwargs.get("past_key_values")
        if cache is not None and int(cache.get_seq_length()) > 0:
            return positions if positions > 1 or self._is_last_chunk(kwargs.get("attention_mask")) else 0
        last = self._last
        if kwargs.get("use_cache") is False and last is not None:
            one_longer = last.input_ids.shape == (input_ids.shape[0], positions - 1)
            if one_longer and torch.equal(last.input_ids, input_ids[:, :-1]):
                return last.prompt_length
        return positions

    def _is_last_chunk(self, mask: Any) -> bool:
        previous = self._last.attention_mask if self._last is not None else None
        if not isinstance(mask, Tensor) or previous is None:
            return False
        return mask.data_ptr() == previous.data_ptr() and mask.shape[1] > previous.shape[1]


def _prompt_mask(input_ids: Tensor, length: int) -> Tensor | None:
    positions = input_ids.shape[1]
    answers = _continuation.get()
    if answers is None and length == positions:
        return None
    place = torch.arange(positions, device=input_ids.device).expand_as(input_ids)
    if answers is None:
        return place < length
    return place < positions - answers.to(input_ids.device).unsqueeze(1)
