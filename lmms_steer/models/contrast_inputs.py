"""Model inputs of a contrast's two branches, as one batch: the questions' rows, then the contrasted rows.

Both branches run in one forward call, so each has its own rows of the cache, and the model's own `generate` keeps
positions and masks.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.errors import UserError
from lmms_steer.models.media import Audio
from lmms_steer.models.visuals import Visual

NOISE_STEP = 500
"""The step of 1,000 at which VCD's forward diffusion stops (its code)."""


def joined_inputs(first: Mapping[str, Any], second: Mapping[str, Any], pad_id: int) -> dict[str, Any]:
    """Two left-padded batches as one, padded on the left to the longer one's length.

    Args:
        first, second: batches of the same number of questions; the second may lack images.
        pad_id: of `input_ids`.

    Raises:
        UserError: for inputs that do not fit together.
    """
    width = max(batch["input_ids"].shape[1] for batch in (first, second))
    joined: dict[str, Any] = {}
    for key in dict.fromkeys((*first, *second)):
        padding = {"input_ids": pad_id, "labels": -100}.get(key, 0)
        one, other = (_of_positions(batch, key) for batch in (first, second))
        if one is not None or other is not None:
            parts = [_like(one, other, first), _like(other, one, second)]
            joined[key] = torch.cat([_padded(part, width, padding) for part in parts])
        elif key not in second or key not in first:
            joined[key] = first.get(key, second.get(key))
        elif first[key].shape[1:] == second[key].shape[1:]:
            joined[key] = torch.cat([first[key], second[key]])
        else:
            shapes = f"{list(first[key].shape)} and {list(second[key].shape)}"
            raise UserError(f"the two branches of a contrast have {key} of the shapes {shapes}, which cannot be joined")
    return joined


def _of_positions(batch: Mapping[str, Any], key: str) -> Tensor | None:
    """An input that has one value for each position; None for images and what is absent."""
    value = batch.get(key)
    of_images = "pixel" in key or key.startswith("qformer_")
    if not isinstance(value, Tensor) or of_images or value.shape[:2] != batch["input_ids"].shape:
        return None
    return value


def _like(own: Tensor | None, other: Tensor | None, batch: Mapping[str, Any]) -> Tensor:
    """A branch's input of positions, or zeros of the other branch's kind where it has none, as without images."""
    if own is not None:
        return own
    assert other is not None
    if other.dim() > 2:
        raise UserError(
            "contrast_image=absent: this model reads images by cross-attention, which a batch has for all of its"
            " questions or for none; choose contrast_image=blank"
        )
    return other.new_zeros(batch["input_ids"].shape)


def _padded(value: Tensor, width: int, padding: int) -> Tensor:
    missing = width - value.shape[1]
    return nn.functional.pad(value, (*[0, 0] * (value.dim() - 2), missing, 0), value=padding) if missing else value


def with_noise(inputs: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The inputs with noisy images: `sqrt(k) x + sqrt(1 - k) e`, with normal e and VCD's k at step `NOISE_STEP`.

    x is what the image processor gives, normalised. An image's noise depends on the seed and on its own content only,
    so that it is the same in every batch. Parts that are zero throughout are padding and stay so.

    Raises:
        UserError: for images in a form that does not tell one from another.
    """
    noisy = dict(inputs)
    for key, value in inputs.items():
        if "pixel_values" in key and isinstance(value, Tensor) and torch.is_floating_point(value):
            grid = inputs.get("video_grid_thw" if "video" in key else "image_grid_thw")
            if value.dim() >= 4:
                images = value.reshape(-1, *value.shape[-3:])
            elif value.dim() == 3:
                images = value
            elif isinstance(grid, Tensor):
                images = value.split(grid.prod(-1).tolist())
            else:
                raise UserError("contrast_image=noise: this image processor mixes images; choose contrast_image=blank")
            parts = [_noisy(image, seed) for image in images]
            noisy[key] = torch.cat(parts) if value.dim() == 2 else torch.stack(parts).reshape(value.shape)
    return noisy


def _noisy(image: Tensor, seed: int) -> Tensor:
    exact = image.float().cpu().contiguous()
    if not exact.any():
        return image
    digest = hashlib.blake2b(exact.numpy().tobytes(), key=seed.to_bytes(8, "big"), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    kept = kept_signal(NOISE_STEP)
    drawn = torch.randn(exact.shape, generator=generator)
    noisy: Tensor = (kept**0.5 * exact + (1 - kept) ** 0.5 * drawn).to(image)
    return noisy


def kept_signal(step: int) -> float:
    """k: the product of `1 - beta` over the steps so far, beta from 1e-5 to 0.005 on a sigmoid from -6 to 6."""
    betas = torch.sigmoid(torch.linspace(-6, 6, 1000, dtype=torch.float64)) * (0.005 - 1e-5) + 1e-5
    return float((1 - betas)[: step + 1].prod())


def require_images(questions: Sequence[str], visuals: Sequence[Sequence[Visual]], contrast: str, image: str) -> None:
    """Check that every question has an image, a video or a sound that the contrasted branch can hide.

    Args:
        questions: of a batch.
        visuals: of each question.
        contrast: name.
        image: what the contrasted branch is shown instead, one of `IMAGES`.

    Raises:
        UserError: for a question that has none.
    """
    for question, own in zip(questions, visuals, strict=True):
        if image == "noise" and own and all(isinstance(one, Audio) for one in own):
            raise UserError(
                f"contrast={contrast}: noise is for images and videos, and {question[:60]!r} has sound only: choose"
                " contrast_image=blank"
            )
        if not own:
            raise UserError(
                f"contrast={contrast} compares with another image, and {question[:60]!r} has none: leave the contrast"
                " out for this task"
            )
