"""Check the images and videos of a task's questions, convert them to RGB, and give each an id by its content.

This module imports no torch.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from lmms_steer.errors import UserError, first_line, reason

GREY = (128, 128, 128)
"""The colour of a blank image: the middle of the range, so that no processor's normalisation makes it extreme."""
Visual = Image.Image | list[Image.Image] | str
"""An image, the frames of a video, or the path of a video."""
shown_images: dict[tuple[str, int], list[str]] = {}
"""(task, doc_id) ▸ ids of the images that our models were shown in this process's evaluation.

lmms-eval's logs hold no images, so the models record them here.
"""


def prepare_visuals(visuals: Any, where: str) -> list[Visual]:
    """The visuals of one question, images converted to RGB.

    Args:
        visuals: the return value of `doc_to_visual`: images, lists of frames, paths of videos, or nothing.
        where: the task and document, for error messages.

    Raises:
        UserError: for a truncated image, or a value that is neither an image nor a video.
    """
    prepared: list[Visual] = []
    for visual in visuals or []:
        if isinstance(visual, Image.Image):
            prepared.append(_to_rgb(visual, where))
        elif isinstance(visual, list) and visual and all(isinstance(frame, Image.Image) for frame in visual):
            prepared.append([_to_rgb(frame, where) for frame in visual])
        elif isinstance(visual, str) and Path(visual).is_file():
            prepared.append(visual)
        else:
            raise UserError(f"{where} gives a {type(visual).__name__} as visual: expected images or videos")
    return prepared


def blank_visuals(visuals: Sequence[Visual]) -> list[Visual]:
    """The visuals of one question with every image, and every frame of a video, replaced by a grey one of its size.

    Raises:
        UserError: for the path of a video, whose frames are not known here.
    """
    blank: list[Visual] = []
    for visual in visuals:
        if isinstance(visual, str):
            raise UserError(f"{visual!r} is a video file: only images and frames can be replaced by blank ones")
        frames = visual if isinstance(visual, list) else [visual]
        grey = [_grey(frame.size) for frame in frames]
        blank.append(grey if isinstance(visual, list) else grey[0])
    return blank


@lru_cache(maxsize=64)
def _grey(size: tuple[int, int]) -> Image.Image:
    return Image.new("RGB", size, GREY)


def open_image(path: Path) -> Image.Image:
    """Read an image file, as RGB.

    Raises:
        UserError: for a file that is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise UserError(f"cannot open the image {str(path)!r}: it is not an image of a known format") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot open the image {str(path)!r}: {reason(error)}") from error


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    try:
        return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: the image cannot be read: {first_line(error)}") from error


def image_ids(visuals: Iterable[Visual]) -> list[str]:
    """One id for each visual: 16 hex digits of a hash of the pixels, or of a video's path."""
    return [_image_id(visual) for visual in visuals]


def _image_id(visual: Visual) -> str:
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(visual, Image.Image):
        digest.update(f"{visual.mode}{visual.size}".encode())
        digest.update(visual.tobytes())
    elif isinstance(visual, str):
        digest.update(visual.encode())
    else:
        digest.update("".join(image_ids(visual)).encode())
    return digest.hexdigest()
