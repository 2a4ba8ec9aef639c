"""The question sets of the tiny world, in CV-Bench's columns.

What is stored is small: the scene and the seed of its picture. The picture is rendered when a task is loaded.

    python -m lmms_steer.tiny_world.question_sets FOLDER     # writes the parquet files anew, to the byte
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
"""(task, split) ▸ style: select and test are alike, ood has another ground, other sizes and other clutter."""

SIZES = {"select": 500, "test": 1000, "ood": 1000}
SEED = 2505
_CV_BENCH_TASK = {"spatial": "Relation", "counting": "Count", "colour": "Colour"}
_KEY = ("scene", "style", "seed")


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
    """The stored rows of one set: CV-Bench's columns but `image`, and scene, style and seed instead.

    No scene of a split is in another split of the same task, nor twice in its own.
    """
    taken: set[Scene] = set()
    for earlier in SIZES:
        wanted = _draw(task, earlier, taken)
        if earlier == split:
            return wanted
    raise ValueError(f"no split {split!r}: {list(SIZES)}")


def _draw(task: str, split: str, taken: set[Scene]) -> list[dict[str, Any]]:
    rng = random.Random(f"{SEED}/{task}/{split}")
    found: list[dict[str, Any]] = []
    answers: Counter[str] = Counter()
    while len(found) < SIZES[split]:
        scene = sample_scene(rng, 2 if task == "spatial" else 1)
        question = ask(scene, rng, (task,))
        if question.kind != task or tuple(sorted(scene)) in taken:
            continue
        # no answer more than a third above its share, so that a constant answer is worth little
        if answers[question.answer] >= 1.34 * SIZES[split] / _answers(task):
            continue
        taken.add(tuple(sorted(scene)))
        answers[question.answer] += 1
        found.append(_row(task, split, len(found), scene, question, rng))
    return found


def _answers(task: str) -> int:
    return {"spatial": 4, "counting": len(NUMBERS), "colour": 8}[task]


def _row(task: str, split: str, number: int, scene: Scene, question: Question, rng: random.Random) -> dict[str, Any]:
    letters = "ABCDEF"
    choices = list(question.choices)
    if task == "counting":
        # the numbers stand in order in a question; as choices they must not tell the answer's letter
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
    """Render the pictures of stored rows: the result has exactly CV-Bench's columns (a task's `process_docs`)."""
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
    """One set with its pictures, as a list of CV-Bench rows, without lmms-eval."""
    from datasets import Dataset

    return list(with_images(Dataset.from_list(rows(task, split))))


def main() -> None:
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
