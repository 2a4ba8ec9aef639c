"""CV-Bench: 2638 questions in one split, from the Hub's parquet files (`nyu-visionx/CV-Bench`)."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmms_steer.data.benchmarks import Benchmark, register_benchmark
from lmms_steer.data.importing import copy_rows
from lmms_steer.data.local_copy import LocalCopy
from lmms_steer.data.release_files import find_files, image_schema, lettered_rows
from lmms_steer.data.stand_ins import image_cell, question_about, shuffle_choices, unseen_scene, write_parquet
from lmms_steer.tiny_world.questions import Question
from lmms_steer.tiny_world.scenes import NUMBERS, Scene, Thing

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
_SOURCES = {"Count": ("ADE20K", "COCO"), "Relation": ("ADE20K", "COCO"), "Depth": ("Omni3D",), "Distance": ("Omni3D",)}
"""Task ▸ where its images come from."""
_TEST_QUESTIONS = 150
"""Of each task, by the paper's split; the stand-in has these in addition."""


def import_release(release: Path, root: Path, limit: int | None) -> Iterator[Path]:
    """Import all questions (see `Benchmark.import_release`)."""
    files = find_files(release, ["test*.parquet", "*/test*.parquet"], "test*.parquet")
    # the repository has all questions in test.parquet, and again in test_2d and test_3d
    files = [path for path in files if not path.stem.endswith(("_2d", "_3d"))] or files
    copy = LocalCopy(root / "cvbench", files)
    copy_rows(copy, "test", lettered_rows(files, SCHEMA.names, "image"), SCHEMA, limit)
    yield copy.finish()


def write_stand_in(folder: Path, questions: int, rng: random.Random) -> None:
    """Write a release with this number of questions of each task, plus those of the test split."""
    rows: list[dict[str, Any]] = []
    for task, sources in _SOURCES.items():
        for number in range(questions + _TEST_QUESTIONS):
            scene, question = _QUESTIONS[task](rng)
            wrong = [choice for choice in question.choices if choice != question.answer]
            lettered = shuffle_choices(rng, question.answer, wrong)
            rows.append(
                {
                    "idx": len(rows),
                    "type": "3D" if "Omni3D" in sources else "2D",
                    "task": task,
                    "question": question.text,
                    "choices": lettered.choices,
                    "answer": lettered.answer,
                    "prompt": f"{question.text} {lettered.listing}",
                    "source": sources[number % len(sources)],
                    "image": image_cell(rng, scene, number),
                }
            )
    write_parquet(folder / "test-00000-of-00001.parquet", rows, SCHEMA)


def _count(rng: random.Random) -> tuple[Scene, Question]:
    scene, question = question_about(rng, "counting")
    digit = {word: str(number) for number, word in enumerate(NUMBERS, start=1)}
    choices = tuple(digit[choice] for choice in question.choices)
    return scene, replace(question, choices=choices, answer=digit[question.answer])


def _relation(rng: random.Random) -> tuple[Scene, Question]:
    return question_about(rng, "relation")


def _depth(rng: random.Random) -> tuple[Scene, Question]:
    """The scenes are flat: as on a floor, what is lower on the picture counts as closer."""
    while True:
        scene = unseen_scene(rng, 2)
        near, far = rng.sample(scene, 2)
        if near.row > far.row:
            names = rng.sample([near.name, far.name], 2)
            text = f"Which object is closer to the camera taking this photo, the {names[0]} or the {names[1]}?"
            return scene, Question("depth", text, tuple(names), near.name)


def _distance(rng: random.Random) -> tuple[Scene, Question]:
    while True:
        scene = unseen_scene(rng, 3)
        here, near, far = rng.sample(scene, 3)
        if _squared_distance(here, near) < _squared_distance(here, far):
            names = rng.sample([near.name, far.name], 2)
            text = (
                "Estimate the real-world distances between objects in this image. Which object is closer to the"
                f" {here.name}, the {names[0]} or the {names[1]}?"
            )
            return scene, Question("distance", text, tuple(names), near.name)


def _squared_distance(one: Thing, other: Thing) -> int:
    return (one.row - other.row) ** 2 + (one.column - other.column) ** 2


_QUESTIONS = {"Count": _count, "Relation": _relation, "Depth": _depth, "Distance": _distance}


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
