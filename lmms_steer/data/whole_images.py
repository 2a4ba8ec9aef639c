"""Check that an image can be decoded to its end."""

import io
import struct
from pathlib import Path

from PIL import Image, ImageFile, UnidentifiedImageError

from lmms_steer.errors import UserError, first_line


def check_whole(image: bytes | Path, where: str) -> None:
    """Decode an image.

    Args:
        image: an image file, or its content.
        where: what to call it in the message.

    Raises:
        UserError: if it is no image, or cut off or damaged.
    """
    source = image if isinstance(image, Path) else io.BytesIO(image)
    # lmms-eval sets it to True: what is missing of an image is then grey, without an error
    tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with Image.open(source) as opened:
            opened.load()
    except UnidentifiedImageError as error:
        raise UserError(f"{where} is not in a known image format") from error
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise UserError(f"{where} is damaged: {first_line(error)}") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant
