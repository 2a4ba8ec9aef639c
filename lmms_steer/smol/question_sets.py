"""The question sets of the `smol_…` tasks, in CV-Bench's columns; drawn from a seed when a task is first loaded.

The model was not trained on any of the scenes. In the existence sets, half of the objects are absent, and these are of
POPE's three groups (arXiv 2305.10355, section 5.1): `random`, any absent object; `popular`, one of the most frequent in
the data; `adversarial`, the one that occurs most often together with the objects that are there.
"""

import random
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from lmms_steer._util.io import cache_dir, write_atomically
from lmms_steer.smol.questions import ask, existence_of, is_held_out
from lmms_steer.tiny_world.cv_bench_rows import QuestionSets, parquet, with_images
from lmms_steer.tiny_world.questions import Question
from lmms_steer.tiny_world.scenes import COLOURS, NUMBERS, SHAPES, Scene, sample_scene

TASKS = {"relation": 4, "counting": 6, "colour": 8, "existence": 2, "relation_yesno": 2}
"""Task ▸ number of different answers, which are equally frequent."""
SIZES = {"select": 600, "test": 1000, "ood": 1000}
VERSION = 2
"""Counts changes to the questions."""
GROUPS = ("random", "popular", "adversarial")
_POPULAR = 8
_REFERENCE_SCENES = 4000
_DIGITS = {word: str(number) for number, word in enumerate(NUMBERS, start=1)}
_NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)


def _ask(task: str, scene: Scene, rng: random.Random) -> Question | None:
    if task == "existence":
        return _existence(scene, rng)
    question = ask(task, scene, rng, benchmark=True)
    if question is None or task != "counting":
        return question
    # CV-Bench's choices are digits
    choices = tuple(_DIGITS[word] for word in question.choices)
    return replace(question, choices=choices, answer=_DIGITS[question.answer])


def _existence(scene: Scene, rng: random.Random) -> Question:
    group = rng.choice(GROUPS)
    present = [thing.name for thing in scene]
    is_there = rng.random() < 0.5
    if is_there:
        name = rng.choice(present)
    else:
        absent = [name for name in _NAMES if name not in present]
        frequency, together = _statistics()
        if group == "popular":
            absent = sorted(absent, key=lambda name: (-frequency[name], name))[:_POPULAR]
        elif group == "adversarial":
            absent = [max(absent, key=lambda name: (sum(together[name, other] for other in present), name))]
        name = rng.choice(absent)
    return replace(existence_of(name, is_there, rng), group=group)


@cache
def _statistics() -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """How often each object occurs in scenes like these, and each pair of objects."""
    rng = random.Random(f"{SMOL.seed}/statistics")
    frequency: Counter[str] = Counter()
    together: Counter[tuple[str, str]] = Counter()
    for _ in range(_REFERENCE_SCENES):
        names = [thing.name for thing in sample_scene(rng, 2)]
        frequency.update(names)
        together.update((one, other) for one in names for other in names if one != other)
    return frequency, together


SMOL = QuestionSets(
    name="smol",
    source="SmolWorld",
    source_dataset="smol_world",
    seed=2509,
    sizes=SIZES,
    styles={(task, split): "moss" if split == "ood" else "plain" for task in TASKS for split in SIZES},
    columns={
        "relation": "Relation",
        "counting": "Count",
        "colour": "Colour",
        "existence": "Existence",
        "relation_yesno": "Relation",
    },
    answers=TASKS,
    ask=_ask,
    allows=is_held_out,
    fewest=dict.fromkeys(TASKS, 2),
    most_of_average=1.0,
)


def question_file(task: str, split: str) -> Path:
    """The parquet file of a set in the cache, which is written if it is not there. Images are not in it.

    Raises:
        UserError: where it cannot be written.
    """
    path = cache_dir() / "questions" / f"smol_{task}_{split}_v{VERSION}.parquet"
    if not path.exists():
        write_atomically(path, parquet(SMOL.rows(task, split)))
    return path


def load_question_set(task: str, split: str) -> list[dict[str, Any]]:
    """One set with its images, as a list of CV-Bench rows, without lmms-eval."""
    from datasets import Dataset

    return list(with_images(Dataset.from_list(SMOL.rows(task, split))))
