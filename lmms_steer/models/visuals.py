"""What a task hands over as visuals ▸ pictures in RGB, and videos."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from lmms_steer.errors import UserError, one_line

if TYPE_CHECKING:
    from lmms_steer.prompts import Visual


def visuals_of(handed: Any, where: str) -> "list[Visual]":
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
        raise UserError(f"{where}: the image cannot be read: {one_line(error)}") from error
