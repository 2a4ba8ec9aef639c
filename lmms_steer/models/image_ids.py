"""A name for what a question shows, by content: questions that share an image are no independent evidence."""

import hashlib
from collections.abc import Iterable

from PIL import Image

from lmms_steer.prompts import Visual

shown: dict[tuple[str, int], list[str]] = {}
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
