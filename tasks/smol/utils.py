"""The tasks of smol-idefics3. Their rows are drawn from a seed when a task is first loaded."""

from typing import Any

from lmms_steer.data import documents
from lmms_steer.data.documents import doc_to_visual
from lmms_steer.scoring.task_results import (
    doc_to_choice,
    doc_to_index,
    doc_to_target,
    doc_to_text,
    process_losses,
    process_results,
)
from lmms_steer.smol.question_sets import question_file
from lmms_steer.tiny_world.cv_bench_rows import with_images

process_docs = with_images


# the question alone, which is answered by a word
doc_to_question = documents.doc_to_text


def __getattr__(name: str) -> Any:
    """`kwargs_TASK_SPLIT`: where the rows of a task's split are."""
    kind, _, rest = name.partition("_")
    if kind != "kwargs":
        raise AttributeError(name)
    task, _, split = rest.rpartition("_")
    return {"data_files": {split: str(question_file(task, split))}}
