"""CV-Bench: the paper's split and the official score. Prompts and answers are those of `scoring.task_results`."""

import math
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lmms_steer.data.documents import doc_to_visual
from lmms_steer.data.source import task_attribute
from lmms_steer.errors import UserError
from lmms_steer.scoring.task_results import (
    doc_to_choice,
    doc_to_index,
    doc_to_target,
    doc_to_text,
    first_paragraph,
    process_losses,
    score_choice,
)

if TYPE_CHECKING:
    from datasets import Dataset

HUB = "nyu-visionx/CV-Bench"
TASKS = {"count": "Count", "relation": "Relation", "depth": "Depth", "distance": "Distance"}
TEST_QUESTIONS = 150
SPLIT_SEED = 42


def __getattr__(name: str) -> Any:
    """`path`, `name` and `kwargs` of the data; `docs_TASK`, `docs_TASK_select` and `docs_TASK_test`."""
    if name.startswith("docs_"):
        task, _, part = name.removeprefix("docs_").partition("_")
        return documents(TASKS[task], part)
    return task_attribute("cvbench", "test", HUB, name)


def documents(task: str, part: str) -> "Callable[[Dataset], Dataset]":
    """A `process_docs` that selects a task's rows and adds their weights in the official score, and the weights' sum.

    Args:
        task: a value of the column `task`.
        part: as of `split`.

    Raises:
        UserError (the function): if there is no such row, as in a copy that was imported with a limit.
    """

    def process_docs(dataset: "Dataset") -> "Dataset":
        sources = dataset["source"]
        weights = official_weights(sources)
        rows_of_task = [row for row, name in enumerate(dataset["task"]) if name.lower() == task.lower()]
        rows = [rows_of_task[place] for place in split(len(rows_of_task), part)]
        if not rows:
            why = f", and the paper's split tests on {TEST_QUESTIONS} of them" if part else ""
            raise UserError(f"CV-Bench: {len(rows_of_task)} of its {len(dataset)} questions here are of {task}{why}")
        of_rows = [weights[sources[row]] for row in rows]
        selected = dataset.select(rows).add_column("official_weight", of_rows)
        return selected.add_column("official_total", [sum(of_rows)] * len(rows))

    return process_docs


def split(count: int, part: str) -> list[int]:
    """The places of a part's questions among a task's questions, by the paper's split.

    Of a permutation with seed 42 the last 150 are the test questions; settings are chosen on the others.

    Args:
        count: the number of the task's questions.
        part: `select`, `test`, or empty for all of them in file order.
    """
    order: list[int] = np.random.RandomState(SPLIT_SEED).permutation(count).tolist()
    return {"": list(range(count)), "select": order[:-TEST_QUESTIONS], "test": order[-TEST_QUESTIONS:]}[part]


def official_weights(sources: list[str]) -> dict[str, float]:
    """The weight of a question by its source.

    The sum of weight x correct over a task, averaged over the four tasks, is the data card's score:
    (ADE20K / 2 + COCO / 2 + Omni3D) / 2, where each term is the accuracy over all questions of that source.

    Args:
        sources: of all questions of all tasks.
    """
    shares = {"ADE20K": 0.25, "COCO": 0.25, "Omni3D": 0.5}
    counts = Counter(sources)
    return {source: 4 * shares.get(source, 0.0) / count for source, count in counts.items()}


def total(values: list[list[float]]) -> float:
    """The aggregation of `official`: a sum over all questions of a task; NaN if only some were asked (`--limit`).

    Args:
        values: of each question, its part of the score, its weight, and the sum of the weights of all questions.
    """
    parts, weights, totals = zip(*values, strict=True)
    return float(sum(parts)) if math.isclose(sum(weights), totals[0]) else math.nan


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """As `score_choice`, with the question's part of the official score."""
    whole = results[0]
    scores = score_choice(first_paragraph(whole), doc["choices"], doc_to_target(doc), whole=whole)
    weight = doc["official_weight"]
    return {**scores, "official": [scores["acc"] * weight, weight, doc["official_total"]]}
