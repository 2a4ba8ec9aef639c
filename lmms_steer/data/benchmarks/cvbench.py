"""CV-Bench: 2638 questions in one split, from the Hub's parquet files (`nyu-visionx/CV-Bench`)."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmms_steer.data.benchmarks import Benchmark, register_benchmark
from lmms_steer.data.importing import copy_rows
from lmms_steer.data.local_copy import LocalCopy
from lmms_steer.data.release_files import find_files, image_schema, lettered_rows
from lmms_steer.data.stand_ins import image_cell, shuffle_choices, write_parquet
from lmms_steer.tiny_world.scenes import sample_scene

SCHEMA = image_schema(
    {
        "idx": pa.int32(),
        "type": pa.string(),
        "task": pa.string(),
        "question": pa.string(),
        "choices": pa.list_(pa.string()),
        "answer": pa.string(),
        "prompt": pa.string(),
        "source": pa.string(),
    },
    images=("image",),
)
# Of the stand-in: (task, its sources, the correct choice, the wrong ones); None: the number of objects.
_TASKS: tuple[tuple[str, tuple[str, ...], str | None, tuple[str, ...]], ...] = (
    ("Count", ("ADE20K", "COCO"), None, ("9", "8", "7")),
    ("Relation", ("ADE20K", "COCO"), "left", ("right",)),
    ("Depth", ("Omni3D",), "chair", ("table",)),
    ("Distance", ("Omni3D",), "sofa", ("lamp",)),
)
_TEST_QUESTIONS = 150
"""Of each task, by the paper's split; the stand-in has these in addition."""


def import_release(release: Path, root: Path, limit: int | None) -> Iterator[Path]:
    """Import all questions (see `Benchmark.import_release`)."""
    files = find_files(release, ["test*.parquet", "*/test*.parquet"], "test*.parquet")
    # the repository has all questions in test.parquet, and again in test_2d and test_3d
    files = [path for path in files if not path.stem.endswith(("_2d", "_3d"))] or files
    copy = LocalCopy(root / "cvbench", files)
    copy_rows(copy, "test", lettered_rows(files, SCHEMA.names), SCHEMA, limit)
    yield copy.finish()


def write_stand_in(folder: Path, questions: int, rng: random.Random) -> None:
    """Write a release with this number of questions of each task, plus those of the test split."""
    rows: list[dict[str, Any]] = []
    for task, sources, correct, wrong in _TASKS:
        for number in range(questions + _TEST_QUESTIONS):
            scene = sample_scene(rng)
            lettered = shuffle_choices(rng, correct or str(len(scene)), wrong)
            question = f"Which of these is it for {task.lower()} {number}?"
            rows.append(
                {
                    "idx": len(rows),
                    "type": "3D" if "Omni3D" in sources else "2D",
                    "task": task,
                    "question": question,
                    "choices": lettered.choices,
                    "answer": lettered.answer,
                    "prompt": f"{question} {lettered.listing}",
                    "source": sources[number % len(sources)],
                    "image": image_cell(rng, scene, number),
                }
            )
    write_parquet(folder / "test-00000-of-00001.parquet", rows, SCHEMA)


register_benchmark(
    Benchmark(
        name="cvbench",
        description="CV-Bench: counting, spatial relation, depth order, relative distance",
        # the dataset's card
        copies={"cvbench": {"test": 2638}},
        import_release=import_release,
        write_stand_in=write_stand_in,
    )
)
