"""Write a task's questions and images to a folder, as `lmms-steer extract --questions` reads them."""

import json
import logging
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from PIL import Image

from lmms_steer._util.io import check_writable, write_atomically
from lmms_steer.errors import UserError
from lmms_steer.harness.task_files import held_out_task, is_test_task
from lmms_steer.harness.tasks import load_task
from lmms_steer.models.visuals import image_ids, prepare_visuals

logger = logging.getLogger(__name__)
FILE = "questions.jsonl"


def write_questions(
    task: str, folder: Path, limit: int | None = None, include_path: Path | None = None
) -> Iterator[str]:
    """Write `questions.jsonl`, with `image` and `prompt` in each line, and the images as PNG files beside it.

    Args:
        task: a task of lmms-eval with one image a question.
        folder: to write to.
        limit: the first questions only; None: all.
        include_path: the user's own folder of tasks.

    Yields:
        A line for the user.

    Raises:
        UserError: for a task that does not exist, a folder that cannot be written, or a question without exactly one
            image.
    """
    check_writable(folder, "the folder", "name another")
    loaded, _ = load_task(task, "steered_hf", include_path)
    held_out = held_out_task(task)
    if held_out:
        logger.warning("%s asks test questions: for vectors to be tested on it, take %s", task, held_out)
    elif is_test_task(task, str(loaded.config.test_split or loaded.config.validation_split)):
        logger.warning("%s asks test questions: vectors made of them cannot be tested on it", task)
    docs = loaded.test_docs() if loaded.has_test_docs() else loaded.validation_docs()
    lines = []
    written: set[str] = set()
    for number in range(min(len(docs), limit or len(docs))):
        where = f"{task}, document {number}"
        visuals = prepare_visuals(loaded.doc_to_visual(docs[number]), where)
        if len(visuals) != 1 or not isinstance(visuals[0], Image.Image):
            raise UserError(f"{where}: a question for vectors has one image, and this has {len(visuals) or 'none'}")
        name = f"images/{image_ids(visuals)[0]}.png"
        # an existing file may be one that a full disk cut
        if name not in written:
            picture = BytesIO()
            visuals[0].save(picture, "PNG")
            write_atomically(folder / name, picture.getvalue())
            written.add(name)
        lines.append(json.dumps({"image": name, "prompt": str(loaded.fewshot_context(docs[number], 0))}) + "\n")
    write_atomically(folder / FILE, "".join(lines).encode())
    yield f"{len(lines)} questions -> {folder / FILE}"
