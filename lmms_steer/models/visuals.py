"""What a task hands over as visuals ▸ images in RGB and videos, and an id of each by its content. Imports no torch."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from lmms_steer.errors import UserError, first_line

Visual = Image.Image | list[Image.Image] | str
"""A picture, a video as its frames, or a video's path."""


def prepare_visuals(handed: Any, where: str) -> list[Visual]:
    """The visuals of one question.

    Args:
        handed: what `doc_to_visual` gave: pictures, lists of frames, paths of videos, or nothing.
        where: the task and document, for complaints.

    Raises:
        UserError: for a picture that is cut off, or something that is no visual.
    """
    found: list[Visual] = []
    for visual in handed or []:
        if isinstance(visual, Image.Image):
            found.append(_rgb(visual, where))
        elif isinstance(visual, list) and visual and all(isinstance(frame, Image.Image) for frame in visual):
            found.append([_rgb(frame, where) for frame in visual])
        elif isinstance(visual, str) and Path(visual).is_file():
            found.append(visual)
        else:
            raise UserError(f"{where} gives a {type(visual).__name__} as visual: expected images, or videos")
    return found


def _rgb(picture: Image.Image, where: str) -> Image.Image:
    try:
        return picture.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: the image cannot be read: {first_line(error)}") from error


shown_images: dict[tuple[str, int], list[str]] = {}
"""(task, doc_id) ▸ what our models were shown in the evaluation that runs in this process; lmms-eval keeps no image."""


def image_ids(visuals: Iterable[Visual]) -> list[str]:
    """One a visual: 16 hex digits of a hash of the pixels, or of a video's path."""
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
