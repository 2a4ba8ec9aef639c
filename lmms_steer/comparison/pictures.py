"""The images of the questions on the page, from the tasks' own data where it is on this machine."""

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from lmms_steer.errors import one_line
from lmms_steer.task_files import names_in, ours

EDGE = 360
_PIXEL_ART = 96
"""Smaller pictures are kept to the pixel."""


def pictures_of(
    task: str,
    asked: Iterable[tuple[int, str, Any, Any]],
    budget: int,
    every: bool = False,
    include_path: Path | None = None,
) -> tuple[dict[int, str], str]:
    """Document ▸ its first image as a data URI, and why not every document has one.

    Args:
        task: its name.
        asked: doc_id, target, prompt and names of images as logged, which must be those of the data here; the prompt
            is looked at where the log names no images (None).
        budget: characters that all of them may take; the first come first.
        every: tasks of the harness as well, whose data may be downloaded.
        include_path: the user's own folder of tasks, which count as ours.
    """
    near = ours() | (names_in(include_path) if include_path else {})
    if not every and task not in near:
        return {}, "no task of ours (your own: --include_path; lmms-eval's: --pictures all tries to load them)"
    pictures: dict[int, str] = {}
    why = ""
    try:
        # with torch and lmms-eval behind them, which a comparison without images does not wait for
        from lmms_steer.lmms_eval_tasks import load
        from lmms_steer.models.image_ids import image_ids
        from lmms_steer.models.visuals import visuals_of

        found, _ = load(task, "steered_hf", include_path)
        docs = found.eval_docs
        for number, target, prompt, names in asked:
            doc = docs[number]
            visuals = visuals_of(found.doc_to_visual(doc), task)
            alike = found.doc_to_text(doc) == prompt if names is None else names == image_ids(visuals)
            if str(found.doc_to_target(doc)) != target or not alike:
                why = "the data here is not what the runs were made on"
            elif visuals and isinstance(visuals[0], Image.Image):
                pictures[number] = data_uri(visuals[0])
                budget -= len(pictures[number])
            if budget < 0:
                return pictures, "more would make the page large"
    except Exception as error:  # noqa: BLE001  a task's own code and data may fail in any way; the page does without
        return pictures, f"the data could not be loaded: {one_line(error)}"
    return pictures, why


def data_uri(picture: Image.Image) -> str:
    """As a page holds it: small enough to be one of hundreds."""
    picture = picture.convert("RGB")
    small = max(picture.size) <= _PIXEL_ART
    picture.thumbnail((EDGE, EDGE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG") if small else picture.save(buffer, "WEBP", quality=75)
    kind = "png" if small else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
