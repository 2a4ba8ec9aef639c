"""CLEVR and Super-CLEVR: the official releases with questions of all kinds, and a set of counting questions.

* `clevr`: the validation split of CLEVR_v1.0;
* `superclevr`: the test images of Super-CLEVR;
* `clevr_count`: `BUAADreamer/clevr_count_70k` on the Hub, as the paper uses it.
"""

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmms_steer.data.benchmarks import Benchmark, register_benchmark
from lmms_steer.data.importing import copy_rows
from lmms_steer.data.local_copy import LocalCopy
from lmms_steer.data.paper_split import HELD_OUT
from lmms_steer.data.release_files import (
    checked_image_name,
    find_files,
    find_image,
    image_schema,
    json_items,
    parquet_rows,
)
from lmms_steer.data.stand_ins import SIZES, SMALL_SIZES, image_cell, unseen_scene, write_image, write_parquet
from lmms_steer.errors import UserError
from lmms_steer.smol.questions import ask
from lmms_steer.tiny_world.questions import Question as SceneQuestion
from lmms_steer.tiny_world.scenes import NUMBERS, Scene

CLEVR_FILE = "CLEVR_val_questions.json"
SUPERCLEVR_FILE = "superCLEVR_questions_30k.json"
SUPERCLEVR_FIRST_TEST_IMAGE = 25000
"""By index: 0-19999 are the training images, 20000-24999 validation, 25000-29999 test (the release's README)."""
PAPER_TRAIN_ROWS = 500
"""The paper's CLEVR is the first 500 questions of clevr_count's `train`."""

QUESTION_SCHEMA = pa.schema(
    [
        ("image_path", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("family", pa.int32()),
        ("kind", pa.string()),
        ("question_index", pa.int64()),
    ]
)
COUNT_SCHEMA = image_schema({"problem": pa.string(), "answer": pa.string()}, image_lists=("images",))


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a release.

    Attributes:
        image: the image's file name.
        image_index: the image's number, -1 if the release has none.
        question: the text.
        answer: the correct answer as text; truth values are `yes` and `no`.
        family: the number of the question's family (its template), -1 if the release has none.
        kind: `count`, `exist`, `query`, `compare_number` or `compare_attribute`.
        question_index: the question's number in the release.
    """

    image: str
    image_index: int
    question: str
    answer: str
    family: int
    kind: str
    question_index: int


def read_questions(path: Path) -> Iterator[Question]:
    """The questions of `CLEVR_{train,val}_questions.json` of CLEVR v1.0, or of `superCLEVR_questions_30k.json`.

    Raises:
        UserError: as `json_items`; for a question that lacks a field (CLEVR's test split has no answers), has one of a
            wrong type, or names an image that leads out of the release.
    """
    families: dict[tuple[str, int], int] = {}
    for number, (where, item) in enumerate(json_items(path, "questions.item", "question")):
        yield _question(item, where, number, families)


def _question(item: Any, where: str, number: int, families: dict[tuple[str, int], int]) -> Question:
    if not isinstance(item, dict):
        raise UserError(f"{where}: expected an object with the question's fields, got {item!r}")
    for field in ("image_filename", "question", "answer"):
        if field not in item:
            hint = " (CLEVR's test split has no answers)" if field == "answer" else ""
            raise UserError(f"{where} has no {field!r}{hint}")
    answer = item["answer"]
    if not isinstance(answer, str | int | bool):
        raise UserError(f"{where}: the answer {answer!r} is not a text, an integer or a truth value")
    # Super-CLEVR has integers and truth values where CLEVR has texts
    text = ("yes" if answer else "no") if isinstance(answer, bool) else str(answer)
    return Question(
        image=checked_image_name(str(item["image_filename"]), where),
        image_index=_integer(item, "image_index", -1, where),
        question=str(item["question"]),
        answer=text,
        family=_family(item, where, families),
        kind=_kind(item.get("program"), text),
        question_index=_integer(item, "question_index", number, where),
    )


def _family(item: dict[str, Any], where: str, families: dict[tuple[str, int], int]) -> int:
    """A family's number. Super-CLEVR counts within each file of templates: `families` numbers them over all files."""
    index = _integer(item, "question_family_index", -1, where)
    if "template_filename" not in item:
        return index
    return families.setdefault((str(item["template_filename"]), index), len(families))


def _integer(item: dict[str, Any], field: str, default: int, where: str) -> int:
    value = item.get(field, default)
    if not isinstance(value, int):
        raise UserError(f"{where}: the {field} {value!r} is not an integer")
    return value


def _kind(program: Any, answer: str) -> str:
    """A question's kind: by the last step of its program if it has one, otherwise by its answer."""
    last = program[-1] if isinstance(program, list) and program and isinstance(program[-1], dict) else {}
    step = str(last.get("function") or last.get("type") or "")
    if step in ("count", "exist"):
        return step
    if step in ("equal_integer", "less_than", "greater_than"):
        return "compare_number"
    if step.startswith("equal_"):
        return "compare_attribute"
    if step.startswith("query_"):
        return "query"
    return "count" if answer.isdecimal() else "exist" if answer in ("yes", "no") else "query"


def import_clevr(release: Path, root: Path, limit: int | None) -> Iterator[Path]:
    """Import the validation split (see `Benchmark.import_release`)."""
    path = find_files(release, [f"**/{CLEVR_FILE}"], CLEVR_FILE)[0]
    copy = LocalCopy(root / "clevr", [path])
    folders = [path.parent.parent / "images" / "val", release / "images" / "val", path.parent / "images"]
    copy_rows(copy, "val", _rows(read_questions(path), copy, folders, path), QUESTION_SCHEMA, limit)
    yield copy.finish()


def import_superclevr(release: Path, root: Path, limit: int | None) -> Iterator[Path]:
    """Import the questions about the test images (see `Benchmark.import_release`)."""
    path = find_files(release, [f"**/{SUPERCLEVR_FILE}"], SUPERCLEVR_FILE)[0]
    copy = LocalCopy(root / "superclevr", [path])
    folders = [path.parent.parent / "images", release / "images", path.parent / "images"]
    questions = (entry for entry in read_questions(path) if entry.image_index >= SUPERCLEVR_FIRST_TEST_IMAGE)
    copy_rows(copy, "test", _rows(questions, copy, folders, path), QUESTION_SCHEMA, limit)
    yield copy.finish()


def _rows(
    questions: Iterator[Question], copy: LocalCopy, folders: Sequence[Path], path: Path
) -> Iterator[dict[str, Any]]:
    """The rows of a copy; adds the images, which `path` names and `folders` hold, to it."""
    for entry in questions:
        yield {
            "image_path": copy.add_image(find_image(entry.image, folders, path), entry.image),
            "question": entry.question,
            "answer": entry.answer,
            "family": entry.family,
            "kind": entry.kind,
            "question_index": entry.question_index,
        }


def import_clevr_count(release: Path, root: Path, limit: int | None) -> Iterator[Path]:
    """Import the counting questions that the paper uses (see `Benchmark.import_release`)."""
    files_of = {
        split: find_files(
            release, [f"{split}*.parquet", f"*/{split}*.parquet"], f"{split}*.parquet", beginning=split == "train"
        )
        for split in ("train", "test")
    }
    copy = LocalCopy(root / "clevr_count", chain(*files_of.values()))
    for split, files in files_of.items():
        largest = min(limit or PAPER_TRAIN_ROWS, PAPER_TRAIN_ROWS) if split == "train" else limit
        copy_rows(copy, split, _count_rows(files), COUNT_SCHEMA, largest)
    yield copy.finish()


def _count_rows(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in files:
        for number, row in enumerate(parquet_rows(path, COUNT_SCHEMA.names, "images"), start=1):
            # R1-V's sets, of which this is one, may wrap numbers in tags
            answer = str(row["answer"])
            if not re.fullmatch(r"\d+(?:\.0+)?", re.sub("</?answer>", "", answer).strip()):
                raise UserError(f"{str(path)!r}, row {number}: the answer {answer!r} is not a number")
            yield {**row, "answer": answer}


def write_clevr(folder: Path, questions: int, rng: random.Random) -> None:
    """Write a release with this number of questions, four about each image."""
    items = []
    functions = {"counting": "count", "existence": "exist", "shape": "query_shape", "more": "greater_than"}
    for number in range(questions):
        kind = list(functions)[number % 4]
        name = f"CLEVR_val_{number // 4:06d}.png"
        if number % 4 == 0:
            scene, asked = _scene_for(rng, functions)
            write_image(folder / "images" / "val" / name, rng, scene, number)
        question, answer, function = asked[kind].text, _number_or_text(asked[kind].answer), functions[kind]
        items.append(
            {
                "split": "val",
                "image_index": number // 4,
                "image_filename": name,
                "question": question,
                "answer": answer,
                "question_family_index": number % 4,
                "question_index": number,
                "program": [{"function": "scene", "inputs": []}, {"function": function, "inputs": [0]}],
            }
        )
    _write_questions(folder / "questions" / CLEVR_FILE, items)


def write_superclevr(folder: Path, questions: int, rng: random.Random) -> None:
    """Write a release with this number of questions about test images, and four about training images."""
    items = []
    kinds = ("counting", "existence", "shape")
    for number in range(questions + 4):
        index = number if number < 4 else SUPERCLEVR_FIRST_TEST_IMAGE + number // 3
        name = f"superCLEVR_new_{index:06d}.png"
        if number <= 4 or number % 3 == 0:
            scene, asked = _scene_for(rng, kinds)
            write_image(folder / "images" / name, rng, scene, number)
        question, text = asked[kinds[number % 3]].text, _number_or_text(asked[kinds[number % 3]].answer)
        answer: Any = int(text) if text.isdecimal() else {"yes": True, "no": False}.get(text, text)
        items.append(
            {
                "split": "new",
                "image_filename": name,
                "image_index": index,
                "question": question,
                "answer": answer,
                "template_filename": "zero_hop.json",
                "question_family_index": number % 3,
                "question_index": number,
            }
        )
    _write_questions(folder / SUPERCLEVR_FILE, items)


def _scene_for(rng: random.Random, kinds: Iterable[str]) -> tuple[Scene, dict[str, SceneQuestion]]:
    """A scene that a question of each kind can be asked about, and these questions."""
    while True:
        scene = unseen_scene(rng, 2)
        asked = {kind: ask(kind, scene, rng, benchmark=True) for kind in kinds}
        found = {kind: question for kind, question in asked.items() if question is not None}
        if len(found) == len(asked):
            return scene, found


def _number_or_text(answer: str) -> str:
    return str(NUMBERS.index(answer) + 1) if answer in NUMBERS else answer


def _write_questions(path: Path, items: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"info": {"split": "val", "version": "1.0"}, "questions": items}))


def write_clevr_count(folder: Path, questions: int, rng: random.Random) -> None:
    """Write a release with this number of questions of each split, plus those that the paper's split holds out."""
    for split in ("train", "test"):
        rows = []
        for number in range(questions + HELD_OUT):
            scene, sizes = unseen_scene(rng), SIZES if number < questions else SMALL_SIZES
            rows.append(
                {
                    "problem": "<image>How many different items are there in the image?",
                    "answer": str(len(scene)),
                    "images": [image_cell(rng, scene, number, "png", sizes)],
                }
            )
        write_parquet(folder / "data" / f"{split}-00000-of-00001.parquet", rows, COUNT_SCHEMA)


register_benchmark(
    Benchmark(
        name="clevr",
        description="CLEVR: questions of all kinds about rendered scenes, validation split",
        # cs.stanford.edu/people/jcjohns/clevr
        copies={"clevr": {"val": 149991}},
        import_release=import_clevr,
        write_stand_in=write_clevr,
    )
)
register_benchmark(
    Benchmark(
        name="clevr_count",
        description="the paper's counting questions about CLEVR and Super-CLEVR images",
        copies={"clevr_count": {"train": PAPER_TRAIN_ROWS, "test": 200}},
        import_release=import_clevr_count,
        write_stand_in=write_clevr_count,
    )
)
register_benchmark(
    Benchmark(
        name="superclevr",
        description="Super-CLEVR: questions of all kinds about rendered vehicles, test images",
        # about ten questions an image; the exact number is not published
        copies={"superclevr": {"test": None}},
        import_release=import_superclevr,
        write_stand_in=write_superclevr,
    )
)
