"""Image contrasts: what takes an image's place in the prompt that a vector's controls are read from.

A vector of an image contrast is the difference that an image makes. How much of it is due to what the image shows, its
control says: the same extraction with the images of other questions (`METHOD-shuffled_images`).
"""

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageFilter

from lmms_steer.errors import UserError, unknown_name
from lmms_steer.models.visuals import Visual, blank_visuals

PATCHES = 16
"""Patches of a masked image in each direction."""
MASKED = 0.99
"""The share of its patches that are replaced: VTI's, whose patches have 14 pixels (arXiv 2410.15778, its code)."""
BLUR = 16
"""The longer side of an image divided by the radius of its blur."""


def _masked(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Most patches have the image's mean colour."""
    pixels = np.asarray(image).copy()
    mean = pixels.reshape(-1, pixels.shape[-1]).mean(0).round().astype(pixels.dtype)
    rows, columns = (np.arange(side) * PATCHES // side for side in pixels.shape[:2])
    hidden = rng.random((PATCHES, PATCHES)) < MASKED
    pixels[hidden[rows][:, columns]] = mean
    return Image.fromarray(pixels)


def _blurred(image: Image.Image, rng: np.random.Generator) -> Image.Image:  # noqa: ARG001
    return image.filter(ImageFilter.GaussianBlur(max(image.size) / BLUR))


_CHANGES: dict[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "masked": _masked,
    "blurred": _blurred,
}
IMAGE_CONTRASTS = {
    "absent": "no image",
    "blank": "a grey image of the same size",
    "masked": f"{MASKED:.0%} of {PATCHES} x {PATCHES} patches in the image's mean colour",
    "blurred": f"blurred, with a radius of 1/{BLUR} of the longer side",
    "other": "another question's image",
}
"""Contrast ▸ what is shown."""


def check_image_contrast(kind: str) -> None:
    """Check that a contrast exists.

    Raises:
        UserError: for an unknown one, with the nearest name.
    """
    if kind not in IMAGE_CONTRASTS:
        raise unknown_name("image contrast", kind, IMAGE_CONTRASTS)


def contrast_image(kind: str, visual: Visual, rng: np.random.Generator) -> list[Visual]:
    """What is shown in the place of an image; nothing for `absent`.

    Args:
        kind: one of `IMAGE_CONTRASTS` but `other`.
        visual: the image.
        rng: for `masked`.

    Raises:
        UserError: for a video, which only `absent` and `blank` can replace.
    """
    if kind == "absent":
        return []
    if kind == "blank":
        return blank_visuals([visual])
    if not isinstance(visual, Image.Image):
        raise UserError(f"the image contrast {kind!r} is for images, not for videos")
    return [_CHANGES[kind](visual, rng)]


def other_places(images: Sequence[str], seed: int) -> list[int] | None:
    """For each question the place of one with another image, each question once if that is possible.

    Args:
        images: what identifies each question's image.
        seed: of the order.

    Returns:
        The places; None if all images are the same.
    """
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    # equal images stand together, so that a shift by the largest group leaves none at its own
    order.sort(key=lambda place: images[place])
    largest = max(images.count(image) for image in set(images))
    if largest == len(images):
        return None
    places = [0] * len(images)
    for number, place in enumerate(order):
        other = next(
            order[(number + largest + step) % len(order)]
            for step in range(len(order))
            if images[order[(number + largest + step) % len(order)]] != images[place]
        )
        places[place] = other
    return places
