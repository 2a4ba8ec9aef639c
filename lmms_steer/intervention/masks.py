"""Which positions of a batch are steered."""

from collections.abc import Sequence

import torch
from torch import Tensor


def token_mask(input_ids: Tensor, attention_mask: Tensor | None, image_ids: Sequence[int], tokens: str) -> Tensor:
    """The positions that `tokens` means.

    Args:
        input_ids: [batch, positions] of this forward call.
        attention_mask: [batch, past + positions] or None; its last columns tell padding from text.
        image_ids: the placeholder ids of `anatomy.image_token_ids`.
        tokens: `image`, `text` (every other position that is not padding, BOS and separators too) or `both`.

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
    return real if tokens == "both" else real & ~image
