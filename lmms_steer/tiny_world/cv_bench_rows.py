"""Question sets about scenes, in CV-Bench's columns: drawn from a seed, and stored without their images.

A stored row has the scene, the style and a seed instead of an image, which is rendered when a task is loaded.
"""

import io
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lmms_steer.tiny_world.questions import Question
from lmms_steer.tiny_world.scenes import Scene, Thing, sample_scene

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

_KEY = ("scene", "style", "seed")
"""The stored columns from which an image is rendered."""
_LETTERS = "ABCDEF"


@dataclass(frozen=True, slots=True)
class QuestionSets:
    """The question sets of several tasks. Each task has the same splits, in whose scenes no two agree.

    Attributes:
        name: the beginning of the names of tasks and files (`tiny`).
        source: the column `source`; a question's group is appended.
        source_dataset: the beginning of the column `source_dataset`, which ends with the style.
        seed: of all random choices.
        sizes: split ▸ number of questions.
        styles: (task, split) ▸ style.
        columns: task ▸ the column `task`.
        answers: task ▸ number of different answers.
        ask: a question of a task about a scene, or None if the scene allows none.
        allows: whether a scene may be asked about.
        fewest: task ▸ smallest number of objects in a scene; 1 for the others.
        most_of_average: how often an answer may occur, relative to the average one.
        shuffled: tasks whose choices are shuffled, because in order they would give the answer's letter away.
    """

    name: str
    source: str
    source_dataset: str
    seed: int
    sizes: Mapping[str, int]
    styles: Mapping[tuple[str, str], str]
    columns: Mapping[str, str]
    answers: Mapping[str, int]
    ask: Callable[[str, Scene, random.Random], Question | None]
    allows: Callable[[Scene], bool] = lambda _: True
    fewest: Mapping[str, int] = field(default_factory=dict)
    most_of_average: float = 1.34
    shuffled: tuple[str, ...] = ()

    def rows(self, task: str, split: str) -> list[dict[str, Any]]:
        """The stored rows of one set.

        Raises:
            ValueError: for an unknown split.
        """
        if split not in self.sizes:
            raise ValueError(f"no split {split!r}: expected one of {list(self.sizes)}")
        return next(rows for name, rows in self.splits(task) if name == split)

    def splits(self, task: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Every split with its rows. All scenes of a task differ, within a split and between splits."""
        used: set[Scene] = set()
        for split in self.sizes:
            # one after another, as each has to avoid the scenes of the splits before it
            yield split, self._draw(task, split, used)

    def _draw(self, task: str, split: str, used: set[Scene]) -> list[dict[str, Any]]:
        """Draw the rows of one split, without the scenes in `used`; its own scenes are added to it."""
        rng = random.Random(f"{self.seed}/{task}/{split}")
        drawn: list[dict[str, Any]] = []
        answers: Counter[str] = Counter()
        # no answer occurs much more often than the average one, so that a constant answer scores low
        most = self.most_of_average * self.sizes[split] / self.answers[task]
        while len(drawn) < self.sizes[split]:
            scene = sample_scene(rng, self.fewest.get(task, 1))
            if not self.allows(scene):
                continue
            question = self.ask(task, scene, rng)
            if question is None or tuple(sorted(scene)) in used or answers[question.answer] >= most:
                continue
            used.add(tuple(sorted(scene)))
            answers[question.answer] += 1
            drawn.append(self._row(task, split, len(drawn), scene, question, rng))
        return drawn

    def _row(
        self, task: str, split: str, number: int, scene: Scene, question: Question, rng: random.Random
    ) -> dict[str, Any]:
        choices = list(question.choices)
        if task in self.shuffled:
            random.Random(f"{self.seed}/{task}/{split}/{number}").shuffle(choices)
        listed = "\n".join(f"({_LETTERS[i]}) {choice}" for i, choice in enumerate(choices))
        style = self.styles[task, split]
        filename = f"{self.name}_{task}_{split}_{number:04d}.png"
        return {
            "idx": number,
            "type": "2D",
            "task": self.columns[task],
            "question": question.text,
            "choices": choices,
            "answer": f"({_LETTERS[choices.index(question.answer)]})",
            "prompt": f"{question.text} Select from the following choices.\n{listed}",
            "filename": filename,
            "source": f"{self.source}/{question.group}" if question.group else self.source,
            "source_dataset": f"{self.source_dataset}/{style}",
            "source_filename": filename,
            "target_class": None,
            "target_size": None,
            "bbox": None,
            "scene": json.dumps([[thing.cell, thing.colour, thing.shape] for thing in scene]),
            "style": style,
            "seed": rng.randrange(2**31),
        }


def features() -> "Features":
    """CV-Bench's columns and types (`nyu-visionx/CV-Bench`)."""
    from datasets import Features, Image, List, Value

    text, number = Value("string"), Value("int32")
    return Features(
        {
            "idx": number,
            "type": text,
            "task": text,
            "image": Image(),
            "question": text,
            "choices": List(text),
            "answer": text,
            "prompt": text,
            "filename": text,
            "source": text,
            "source_dataset": text,
            "source_filename": text,
            "target_class": text,
            "target_size": number,
            "bbox": List(List(Value("float32"))),
        }
    )


def with_images(stored: "Dataset") -> "Dataset":
    """Render the images of stored rows (a task's `process_docs`). The result has exactly CV-Bench's columns."""
    from datasets import Dataset

    columns = stored.to_dict()
    keys = zip(*(columns.pop(key) for key in _KEY), strict=True)
    columns["image"] = [{"path": None, "bytes": _png(*key)} for key in keys]
    return Dataset.from_dict({name: columns[name] for name in features()}, features=features())


@lru_cache(maxsize=4096)
def _png(scene: str, style: str, seed: int) -> bytes:
    """A rendered scene as a file. Kept, because a recipe's worker and a search load the same questions many times."""
    from PIL import Image

    from lmms_steer.tiny_world.scenes import STYLES as RENDERING
    from lmms_steer.tiny_world.scenes import render

    file = io.BytesIO()
    things = tuple(Thing(*thing) for thing in json.loads(scene))
    Image.fromarray(render(things, RENDERING[style], seed)).save(file, format="PNG")
    return file.getvalue()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    """Stored rows as the content of a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=_stored_schema()), file, compression="zstd")
    return file.getvalue()


def _stored_schema() -> "pa.Schema":
    import pyarrow as pa

    lists = {"choices": pa.list_(pa.string()), "bbox": pa.list_(pa.list_(pa.float32()))}
    numbers = {"idx": pa.int32(), "target_size": pa.int32()}
    columns = [(name, lists.get(name) or numbers.get(name) or pa.string()) for name in features() if name != "image"]
    return pa.schema([*columns, ("scene", pa.string()), ("style", pa.string()), ("seed", pa.int64())])
