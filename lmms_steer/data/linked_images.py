"""Photographs of COCO that a dataset names by a link: fetched once, and kept in the cache."""

import re
import urllib.request
from http.client import HTTPException
from typing import Any

from PIL import Image

from lmms_steer._util.io import cache_dir, write_atomically
from lmms_steer.data.whole_images import check_whole
from lmms_steer.errors import UserError, reason

_LINK = re.compile(r"https?://images\.cocodataset\.org/((?:train|val|test)20\d\d/\d{12}\.jpg)")
"""No other address is asked for, whatever a dataset says."""
_SECONDS = 60
_MAX_BYTES = 2**24


def linked_image(link: str) -> Any:
    """Open the image of a link.

    Raises:
        UserError: if the link is not to a photograph of COCO, or it cannot be fetched or is no image.
    """
    found = _LINK.fullmatch(link)
    if found is None:
        raise UserError(f"the link {link!r} is not to a photograph on images.cocodataset.org")
    path = cache_dir() / "images" / found[1]
    if not path.is_file():
        write_atomically(path, _fetch(f"http://images.cocodataset.org/{found[1]}"))
    return Image.open(path)


def _fetch(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=_SECONDS) as answer:  # noqa: S310
            content = bytes(answer.read(_MAX_BYTES))
        check_whole(content, "what came")
    except (OSError, HTTPException, UserError) as error:
        why = str(error) if isinstance(error, UserError) else reason(error)
        raise UserError(
            f"cannot fetch {address}: {why}; a release with its images can be imported with lmms-steer data import"
        ) from error
    return content
