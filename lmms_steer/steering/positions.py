"""Select the positions of a prompt by the kind of token: images, videos, audio, text, both, the last one."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from lmms_steer.errors import SteeringError, UserError
from lmms_steer.steering.decoder_inputs import decoder_ids
from lmms_steer.steering.placeholders import BY_MASK, MEDIA, Placeholders


def ids_of(inputs: Mapping[str, Any], offset: int = 0) -> Tensor:
    """The input ids, with a marker at image positions that only a mask shows, [batch, positions].

    Args:
        inputs: of a model, with `input_ids`; or of an encoder-decoder, with `decoder_input_ids`.
        offset: the position in the sequence where they begin.

    Returns:
        `input_ids`, of an encoder-decoder `decoder_input_ids`; with `BY_MASK` where `image_embeds_position_mask` says
        that an image is (Kosmos-2).

    Raises:
        SteeringError: for a mask that does not cover the ids.
    """
    ids = decoder_ids(inputs)
    mask = inputs.get("image_embeds_position_mask")
    if not isinstance(mask, Tensor):
        return ids
    own = mask if mask.shape == ids.shape else mask[:, offset : offset + ids.shape[1]]
    if own.shape != ids.shape:
        raise SteeringError(
            f"image_embeds_position_mask has the shape {list(mask.shape)}, which does not cover the {list(ids.shape)}"
            " input_ids"
        )
    # Kosmos-2.5 marks the tokens around an image with -1
    return ids.masked_fill(own.to(ids.device) == 1, BY_MASK)


def token_mask(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    media: Placeholders,
    tokens: str,
    prompt: Tensor | None = None,
    special_ids: Collection[int] | None = None,
) -> Tensor:
    """The positions that `tokens` selects.

    Args:
        input_ids: [batch, positions] of this forward call.
        attention_mask: [batch, past + positions] or None; its last columns mark padding.
        media: the model's placeholders.
        tokens: `image`, `video` or `audio`; `text`, every other position that is not padding, including BOS and
            separators; `both`, text and all media; `last`, the last position that is not padding; or the masks of the
            paper's released code: `text_paper`, text without special tokens and without the last token that is not
            special, and `both_paper`, that and all media.
        prompt: bool [batch, positions], the positions of the prompt; None if all are. `last` and the paper's masks
            look at these only.
        special_ids: the tokenizer's special ids, for the paper's masks.

    Returns:
        bool [batch, positions].

    Raises:
        UserError: for one of the paper's masks without `special_ids`.
    """
    if tokens in MEDIA:
        return media_mask(input_ids, media, tokens)
    real = torch.ones_like(input_ids, dtype=torch.bool)
    if attention_mask is not None and attention_mask.dim() == 2:
        real = attention_mask[:, -input_ids.shape[1] :].to(device=real.device, dtype=torch.bool)
    if tokens == "both":
        return real
    shown = media_mask(input_ids, media, *MEDIA)
    if tokens == "text":
        return real & ~shown
    in_prompt = real if prompt is None else real & prompt
    if tokens == "last":
        return _last_true(in_prompt)
    special_ids = require_special_ids(tokens, special_ids)
    special = torch.zeros_like(shown)
    for special_id in special_ids:
        special |= input_ids == special_id
    plain = in_prompt & ~shown & ~special
    text = plain & ~_last_true(plain)
    return text if tokens == "text_paper" else text | shown


def media_mask(input_ids: Tensor, media: Placeholders, *kinds: str) -> Tensor:
    """The positions of some kinds of media, bool [batch, positions].

    Args:
        input_ids: [batch, positions], from the beginning of the prompt if `media` has a `video_span`.
        media: the model's placeholders.
        *kinds: of `lmms_steer.steering.placeholders.MEDIA`.
    """
    found = torch.zeros_like(input_ids, dtype=torch.bool)
    for kind in kinds:
        own = torch.zeros_like(found)
        for placeholder in getattr(media, kind):
            own |= input_ids == placeholder
        if media.video_span is not None and kind in ("image", "video"):
            start, end = media.video_span
            in_video = (input_ids == start).cumsum(1) > (input_ids == end).cumsum(1)
            own &= in_video if kind == "video" else ~in_video
        found |= own
    return found


def kinds_of(input_ids: Tensor, media: Placeholders) -> list[str]:
    """The kind of each position of one prompt, [positions]: `image`, `video`, `audio` or `text`."""
    kinds = ["text"] * input_ids.shape[0]
    for kind in media.kinds:
        for place in media_mask(input_ids.unsqueeze(0), media, kind)[0].nonzero().flatten().tolist():
            kinds[place] = kind
    return kinds


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
