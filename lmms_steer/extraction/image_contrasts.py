"""Image contrasts: what takes an image's place in the prompt that a vector's controls are read from.

A vector of an image contrast is the difference that an image makes. How much of it is due to what the image shows, its
control says: the same extraction with the images of other questions (`METHOD-shuffled_images`). Where what is read does
not depend on the question, that control would be the vector itself, and there is none.
"""

from collections import Counter
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
SEEDED = ("masked", "other")
"""The contrasts that are drawn."""


def check_image_contrast(kind: str) -> None:
    """Check that a contrast exists.

    Raises:
        UserError: for an unknown one, with the nearest name.
    """
    if kind not in IMAGE_CONTRASTS:
        raise unknown_name("image contrast", kind, IMAGE_CONTRASTS)


def no_shuffled_images(method: str, kind: str | None) -> UserError:
    """The error for a control with the images of other questions that does not exist.

    Args:
        method: as it was asked for.
        kind: the image contrast, if there is one.
    """
    if kind is None:
        return UserError(f"{method}: only an image contrast has this control: --questions and --image_contrast")
    return UserError(
        f"{method} would be the vector itself: what is read stays the same when the questions exchange their images"
    )


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
        seed: chooses which of the other images each question gets.

    Returns:
        The places; None if all images are the same.
    """
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    # equal images stand together, so that a shift by at least the largest group, in both directions, leaves none at its
    # own; each seed chooses one of these shifts
    order.sort(key=lambda place: images[place])
    largest = max(Counter(images).values())
    if largest == len(images):
        return None
    shift = largest + seed % max(len(images) - 2 * largest + 1, 1)
    places = [0] * len(images)
    for number, place in enumerate(order):
        other = next(
            order[(number + shift + step) % len(order)]
            for step in range(len(order))
            if images[order[(number + shift + step) % len(order)]] != images[place]
        )
        places[place] = other
    return places
