"""Select the positions of a prompt by the kind of token: images, text, both, the last one."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from lmms_steer.errors import UserError


def token_mask(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    image_ids: Sequence[int],
    tokens: str,
    prompt: Tensor | None = None,
    special_ids: Collection[int] | None = None,
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

    Raises:
        UserError: for one of the paper's masks without `special_ids`.
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
    special_ids = require_special_ids(tokens, special_ids)
    special = torch.zeros_like(image)
    for special_id in special_ids:
        special |= input_ids == special_id
    plain = in_prompt & ~image & ~special
    text = plain & ~_last_true(plain)
    return text if tokens == "text_paper" else text | image


def require_special_ids(tokens: str, special_ids: Collection[int] | None) -> Collection[int]:
    """The special ids, which one of the paper's masks needs; () for the other tokens.

    Raises:
        UserError: for one of the paper's masks without them.
    """
    if not tokens.endswith("_paper"):
        return ()
    if special_ids is None:
        raise UserError(
            f"tokens={tokens} leaves out special tokens, which only the tokenizer knows: pass"
            " special_ids=tokenizer.all_special_ids"
        )
    return special_ids


def _last_true(mask: Tensor) -> Tensor:
    """A mask of only the last true position of each row."""
    following = mask.flip(1).cumsum(1).flip(1)
    return mask & (following == 1)
