"""Look up the images of questions in a task's own data, and encode them for a page."""

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from lmms_steer.errors import first_line
from lmms_steer.harness.task_files import our_tasks, tasks_in

IMAGE_EDGE = 360
"""Larger images are scaled down to this edge, in pixels."""
_PIXEL_ART_EDGE = 96
"""Images up to this edge are stored without loss."""


@dataclass(frozen=True)
class ImageQuery:
    """What identifies a question whose image is looked up.

    Attributes:
        doc_id: the harness's number of the document.
        target: the correct answer, as it was logged.
        prompt: the prompt, as it was logged; compared with the data if the log names no images.
        images: the names of the images, as they were logged; None if the log names none.
    """

    doc_id: int
    target: str
    prompt: Any
    images: list[str] | None


def task_images(
    task: str, queries: Iterable[ImageQuery], budget: int, every: bool = False, include_path: Path | None = None
) -> tuple[dict[int, str], str]:
    """Look up images in a task's own data, if it is on this machine and is the data that the runs were made on.

    Args:
        task: its name.
        queries: the questions, in the order in which the budget is spent.
        budget: the largest number of characters of all images.
        every: whether to try the harness's own tasks as well, whose data may have to be downloaded.
        include_path: a folder of the user's own tasks, which count as ours.

    Returns:
        doc_id ▸ first image as a data URI, and why some questions have none; "" if all have one.
    """
    own_tasks = our_tasks() | (tasks_in(include_path) if include_path else {})
    if not every and task not in own_tasks:
        return {}, "not one of our tasks (for your own tasks give --include_path; --pictures all tries lmms-eval's)"
    images: dict[int, str] = {}
    problem = ""
    try:
        # with torch and lmms-eval behind them, which a comparison without images does not need
        from lmms_steer.harness.tasks import load_task
        from lmms_steer.models.visuals import image_ids, prepare_visuals

        loaded, _ = load_task(task, "steered_hf", include_path)
        docs = loaded.eval_docs
        for query in queries:
            doc = docs[query.doc_id]
            visuals = prepare_visuals(loaded.doc_to_visual(doc), task)
            if query.images is None:
                same = loaded.fewshot_context(doc, 0) == query.prompt
            else:
                same = query.images == image_ids(visuals)
            if not same or str(loaded.doc_to_target(doc)) != query.target:
                problem = "the data on this machine is not what the runs were made on"
            elif visuals and isinstance(visuals[0], Image.Image):
                images[query.doc_id] = data_uri(visuals[0])
                budget -= len(images[query.doc_id])
            if budget < 0:
                return images, "more images would make the page too large"
    except Exception as error:  # noqa: BLE001  a task's own code and data may fail in any way; images are optional
        return images, f"the data could not be loaded: {first_line(error)}"
    return images, problem


def data_uri(image: Image.Image) -> str:
    """Return an image as a data URI, small enough for a page with hundreds of them."""
    image = image.convert("RGB")
    pixel_art = max(image.size) <= _PIXEL_ART_EDGE
    image.thumbnail((IMAGE_EDGE, IMAGE_EDGE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG") if pixel_art else image.save(buffer, "WEBP", quality=75)
    kind = "png" if pixel_art else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
