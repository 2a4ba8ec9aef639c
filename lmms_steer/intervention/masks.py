"""Which positions of a batch are steered."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor


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
