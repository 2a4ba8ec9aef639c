"""Where the tokens of an image lie in it."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def image_grid(inputs: Mapping[str, Tensor], config: Any, tokens: int) -> tuple[int, int] | None:
    """The rows and columns of the tokens of a prompt's one image.

    Args:
        inputs: the prompt as the model takes it. Qwen-VL and its relatives give the patches' grid; other models one
            picture, in the shape in which the vision tower sees it.
        config: the model's.
        tokens: how many image tokens the prompt has.

    Returns:
        None where the processor alone knows: for several images, for one in tiles, for a picture that is not square.
    """
    if "image_grid_thw" in inputs:
        merged = int(getattr(getattr(config, "vision_config", None), "spatial_merge_size", 1))
        grids = [(rows // merged, columns // merged) for _, rows, columns in inputs["image_grid_thw"].tolist()]
        return grids[0] if len(grids) == 1 and math.prod(grids[0]) == tokens else None
    pixels, side = inputs.get("pixel_values"), math.isqrt(tokens)
    if pixels is None or pixels.dim() < 4 or pixels.shape[-1] != pixels.shape[-2] or side * side != tokens:
        return None
    return (side, side) if math.prod(pixels.shape[:-3]) == 1 else None
