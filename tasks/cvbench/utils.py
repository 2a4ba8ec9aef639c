"""CV-Bench: prompts, the paper's split, the official score."""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lmms_steer.data.source import task_attribute
from lmms_steer.scoring import task_results as lettered
from lmms_steer.scoring.task_results import doc_to_choice, doc_to_index, doc_to_target, doc_to_text, process_losses

if TYPE_CHECKING:
    from datasets import Dataset

HUB = "nyu-visionx/CV-Bench"
TASKS = {"count": "Count", "relation": "Relation", "depth": "Depth", "distance": "Distance"}
TEST = 150


def __getattr__(name: str) -> Any:
    """`path`, `name` and `kwargs` of the data; `docs_TASK[_select|_test]`, which keeps a task's rows."""
    if name.startswith("docs_"):
        task, _, part = name.removeprefix("docs_").partition("_")
        return documents(TASKS[task], part)
    return task_attribute("cvbench", "test", HUB, name)


def documents(task: str, part: str) -> "Callable[[Dataset], Dataset]":
    def process_docs(dataset: "Dataset") -> "Dataset":
        sources = dataset["source"]
        weights = official_weights(sources)
        rows = [i for i, name in enumerate(dataset["task"]) if name.lower() == task.lower()]
        kept = [rows[i] for i in split(len(rows), part)]
        chosen = dataset.select(kept)
        return chosen.add_column("official_weight", [weights[sources[i]] for i in kept])

    return process_docs


def split(count: int, part: str) -> list[int]:
    """The paper's: of a permutation with seed 42 the last 150 are the test, the others are there to choose on."""
    order = np.random.RandomState(42).permutation(count).tolist()
    return {"": list(range(count)), "select": order[:-TEST], "test": order[-TEST:]}[part]


def official_weights(sources: list[str]) -> dict[str, float]:
    """A question's weight, so that the mean over the four tasks of the sums of weight x right is the official score.

    (ADE20K / 2 + COCO / 2 + Omni3D) / 2, each an accuracy over all its questions (the data card).
    """
    shares = {"ADE20K": 0.25, "COCO": 0.25, "Omni3D": 0.5}
    counts = Counter(sources)
    return {source: 4 * shares.get(source, 0.0) / count for source, count in counts.items()}


def total(values: list[float]) -> float:
    return float(sum(values))


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    return [doc["image"].convert("RGB")]


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    scored = lettered.process_results(doc, results)
    return {**scored, "official": scored["acc"] * doc["official_weight"]}
