"""The question sets of the tiny world, in CV-Bench's columns.

The parquet files are small: they contain scenes and seeds, and images are rendered when a task is loaded.

    python -m lmms_steer.tiny_world.question_sets FOLDER     # write the parquet files again, byte for byte
"""

import random
import sys
from pathlib import Path
from typing import Any

from lmms_steer.tiny_world.cv_bench_rows import QuestionSets, parquet, with_images
from lmms_steer.tiny_world.questions import Question, ask
from lmms_steer.tiny_world.scenes import NUMBERS, Scene

STYLES = {
    ("spatial", "select"): "coarse",
    ("spatial", "test"): "coarse",
    ("spatial", "ood"): "moss",
    ("counting", "select"): "grainy",
    ("counting", "test"): "grainy",
    ("counting", "ood"): "moss",
    ("colour", "select"): "coarse",
    ("colour", "test"): "coarse",
    ("colour", "ood"): "moss",
}
"""(task, split) ▸ style. `ood` differs from the others in the background, the sizes and the distractors."""

SIZES = {"select": 500, "test": 1000, "ood": 1000}


def _ask(task: str, scene: Scene, rng: random.Random) -> Question | None:
    question = ask(scene, rng, (task,))
    return question if question.kind == task else None


TINY = QuestionSets(
    name="tiny",
    source="TinyWorld",
    source_dataset="tiny_world",
    seed=2505,
    sizes=SIZES,
    styles=STYLES,
    columns={"spatial": "Relation", "counting": "Count", "colour": "Colour"},
    answers={"spatial": 4, "counting": len(NUMBERS), "colour": 8},
    ask=_ask,
    fewest={"spatial": 2},
    shuffled=("counting",),
)


def load_question_set(task: str, split: str) -> list[dict[str, Any]]:
    """One set with its images, as a list of CV-Bench rows, without lmms-eval."""
    from datasets import Dataset

    return list(with_images(Dataset.from_list(TINY.rows(task, split))))


def main() -> None:
    """Write the parquet files into the folder of the command line."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for task, split in STYLES:
        (folder / f"{task}_{split}.parquet").write_bytes(parquet(TINY.rows(task, split)))


if __name__ == "__main__":
    main()
