"""The question sets of the tiny world, in CV-Bench's columns.

The parquet files are small: they contain scenes and seeds, and images are rendered when a task is loaded.

    python -m lmms_steer.tiny_world.question_sets FOLDER     # write the parquet files again, byte for byte
"""

import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_steer.tiny_world.questions import Question, ask
from lmms_steer.tiny_world.scenes import NUMBERS, Scene, Thing, sample_scene

if TYPE_CHECKING:
    from datasets import Dataset, Features

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
SEED = 2505
_CV_BENCH_TASK = {"spatial": "Relation", "counting": "Count", "colour": "Colour"}
_KEY = ("scene", "style", "seed")
"""The stored columns from which an image is rendered."""
_ANSWERS = {"spatial": 4, "counting": len(NUMBERS), "colour": 8}
"""The number of different answers to a task's questions."""


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


def rows(task: str, split: str) -> list[dict[str, Any]]:
    """The stored rows of one set: CV-Bench's columns, with scene, style and seed in place of `image`.

    All scenes of a task differ, within a split and between splits.
    """
    used: set[Scene] = set()
    for name in SIZES:
        # splits are drawn one after another, as each has to avoid the scenes of the splits before it
        drawn = _draw(task, name, used)
        if name == split:
            return drawn
    raise ValueError(f"no split {split!r}: expected one of {list(SIZES)}")


def _draw(task: str, split: str, used: set[Scene]) -> list[dict[str, Any]]:
    """Draw the rows of one split, without the scenes in `used`; its own scenes are added to it."""
    rng = random.Random(f"{SEED}/{task}/{split}")
    drawn: list[dict[str, Any]] = []
    answers: Counter[str] = Counter()
    while len(drawn) < SIZES[split]:
        scene = sample_scene(rng, 2 if task == "spatial" else 1)
        question = ask(scene, rng, (task,))
        if question.kind != task or tuple(sorted(scene)) in used:
            continue
        # no answer occurs a third more often than the average one, so that a constant answer scores low
        if answers[question.answer] >= 1.34 * SIZES[split] / _ANSWERS[task]:
            continue
        used.add(tuple(sorted(scene)))
        answers[question.answer] += 1
        drawn.append(_row(task, split, len(drawn), scene, question, rng))
    return drawn


def _row(task: str, split: str, number: int, scene: Scene, question: Question, rng: random.Random) -> dict[str, Any]:
    letters = "ABCDEF"
    choices = list(question.choices)
    if task == "counting":
        # in order, the choices would give the answer's letter away
        random.Random(f"{SEED}/{task}/{split}/{number}").shuffle(choices)
    listed = "\n".join(f"({letters[i]}) {choice}" for i, choice in enumerate(choices))
    filename = f"tiny_{task}_{split}_{number:04d}.png"
    return {
        "idx": number,
        "type": "2D",
        "task": _CV_BENCH_TASK[task],
        "question": question.text,
        "choices": choices,
        "answer": f"({letters[choices.index(question.answer)]})",
        "prompt": f"{question.text} Select from the following choices.\n{listed}",
        "filename": filename,
        "source": "TinyWorld",
        "source_dataset": f"tiny_world/{STYLES[task, split]}",
        "source_filename": filename,
        "target_class": None,
        "target_size": None,
        "bbox": None,
        "scene": json.dumps([[thing.cell, thing.colour, thing.shape] for thing in scene]),
        "style": STYLES[task, split],
        "seed": rng.randrange(2**31),
    }


def with_images(stored: "Dataset") -> "Dataset":
    """Render the images of stored rows (a task's `process_docs`). The result has exactly CV-Bench's columns."""
    from datasets import Dataset
    from PIL import Image

    from lmms_steer.tiny_world.scenes import STYLES as RENDERING
    from lmms_steer.tiny_world.scenes import render

    columns = stored.to_dict()
    scene, style, seed = (columns.pop(key) for key in _KEY)
    columns["image"] = [
        Image.fromarray(render(tuple(Thing(*thing) for thing in json.loads(s)), RENDERING[name], number))
        for s, name, number in zip(scene, style, seed, strict=True)
    ]
    return Dataset.from_dict({name: columns[name] for name in features()}, features=features())


def load_question_set(task: str, split: str) -> list[dict[str, Any]]:
    """One set with its images, as a list of CV-Bench rows, without lmms-eval."""
    from datasets import Dataset

    return list(with_images(Dataset.from_list(rows(task, split))))


def main() -> None:
    """Write the parquet files into the folder of the command line."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    stored = {name: f.dtype for name, f in features().items() if hasattr(f, "dtype") and name != "image"}
    schema = pa.schema(
        [
            (name, {"int32": pa.int32()}.get(stored.get(name, ""), pa.string()))
            if name not in ("choices", "bbox")
            else (name, pa.list_(pa.string()) if name == "choices" else pa.list_(pa.list_(pa.float32())))
            for name in features()
            if name != "image"
        ]
        + [("scene", pa.string()), ("style", pa.string()), ("seed", pa.int64())]
    )
    for task, split in STYLES:
        table = pa.Table.from_pylist(rows(task, split), schema=schema)
        pq.write_table(table, folder / f"{task}_{split}.parquet", compression="zstd")


if __name__ == "__main__":
    main()
