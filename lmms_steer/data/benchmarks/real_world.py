"""ChartQA, DocVQA, VTabFact, VQAv2 and COCO captions: the questions of each that the paper's released code takes.

Their releases are the Hub's parquet files. A copy has the questions that the tasks read, not the whole release: VQAv2's
validation split alone has 214,354. Facts about the released code (TextSteersVision, ce1c0f0) are from its loaders.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lmms_steer.data.benchmarks import Benchmark, register_benchmark
from lmms_steer.data.importing import copy_rows
from lmms_steer.data.local_copy import LocalCopy
from lmms_steer.data.paper_split import HELD_OUT, SPLIT_SEED
from lmms_steer.data.release_files import check_images, find_files, image_schema, parquet_rows
from lmms_steer.data.stand_ins import SIZES, SMALL_SIZES, image_cell, write_parquet
from lmms_steer.errors import UserError, shorten
from lmms_steer.tiny_world.scenes import Scene, sample_scene

FIRST = 550
"""The released code takes so many rows of a kind, in file order (utils.py:2891, 3553)."""
DRAWN = 500 + HELD_OUT
"""Rows that it draws from VQAv2 and COCO (utils.py:4551, 5136)."""


def first_of_kind(kinds: Sequence[Any], is_kind: Callable[[Any], bool]) -> list[int]:
    """The places of the first rows of a kind, as many as the released code takes."""
    return [place for place, kind in enumerate(kinds) if is_kind(kind)][:FIRST]


def drawn(count: int) -> list[int]:
    """The places of the rows that the released code draws with `Dataset.shuffle(seed=42)`; all of few rows, unshuffled.

    A copy has few rows: those that were drawn, in this order.
    """
    if count <= DRAWN:
        return list(range(count))
    # what Dataset.shuffle does
    return [int(place) for place in np.random.default_rng(SPLIT_SEED).permutation(count)[:DRAWN]]


def is_human(value: Any) -> bool:
    """ChartQA: whether a person wrote the question."""
    return bool(value == 0)


def is_counting(types: Sequence[str] | None) -> bool:
    """DocVQA: the released code's kind `counting`. It also names `table/list`, misspelled, so that no row has it."""
    return any(name in ("figure/diagram", "form") for name in types or ())


def is_layout(types: Sequence[str] | None) -> bool:
    """DocVQA: the released code's kind `spatial_relationship`."""
    return "layout" in (types or ())


TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")
"""How VTabFact's rows say whether a statement is true."""
_NOUNS = {str: "a text", int: "a whole number", dict: "an answer with its confidence"}
_ANSWERS = pa.list_(pa.struct([("answer", pa.string()), ("answer_confidence", pa.string()), ("answer_id", pa.int64())]))


@dataclass(frozen=True, slots=True)
class Release:
    """A dataset of the Hub with one image a row.

    Attributes:
        description: one line.
        hub: its id.
        config: its configuration; None for the default one.
        split: the split that is used.
        columns: the columns that are used, beside `image`.
        kinds: for each kind that the released code takes the first rows of: column, and whether a value is of it.
        draws: whether it draws rows from a shuffled split.
        rows: that a copy has; None if it is not known.
        values: column ▸ the values that its texts may have, whatever their case.
    """

    description: str
    hub: str
    config: str | None
    split: str
    columns: dict[str, pa.DataType]
    kinds: dict[str, tuple[str, Callable[[Any], bool]]]
    draws: bool
    rows: int | None
    values: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def places(self, rows: Any, kind: str = "") -> list[int]:
        """The places of the rows that the released code takes.

        Args:
            rows: a dataset, or anything with a length that gives a column by its name.
            kind: one of `kinds`; "" for all of them together, or where there are none.
        """
        if self.draws:
            return drawn(len(rows))
        if not self.kinds:
            return list(range(len(rows)))
        wanted = [self.kinds[kind]] if kind else self.kinds.values()
        return sorted({place for column, is_kind in wanted for place in first_of_kind(rows[column], is_kind)})

    def problem(self, row: Mapping[str, Any]) -> str:
        """Say what is wrong with the values of a row; "" if nothing is."""
        for name, kind in self.columns.items():
            value, listed = row[name], pa.types.is_list(kind)
            # empty texts beside others are left out when an answer is scored
            said = [one for one in value if one != ""] if isinstance(value, list) else value
            if isinstance(value, list) != listed or said in ("", []):
                wanted = "a list that is not empty" if listed else "one value"
                return f"{name!r} is {shorten(repr(value))}: expected {wanted}"
            inner = kind.value_type if listed else kind
            expected = str if pa.types.is_string(inner) else dict if pa.types.is_struct(inner) else int
            wrong = [one for one in (said if listed else [said]) if not isinstance(one, expected)]
            if wrong:
                return f"{name!r} holds {shorten(repr(wrong[0]))}: expected {_NOUNS[expected]}"
            if name in self.values and value.lower() not in self.values[name]:
                return f"{name!r} is {shorten(repr(value))}: expected one of {', '.join(self.values[name])}"
        return ""


RELEASES = {
    "chartqa": Release(
        "ChartQA: the first 550 questions by people and by machine about charts",
        "HuggingFaceM4/ChartQA", None, "test",
        {"query": pa.string(), "label": pa.list_(pa.string()), "human_or_machine": pa.int64()},
        {"human": ("human_or_machine", is_human), "machine": ("human_or_machine", lambda value: not is_human(value))},
        draws=False, rows=2 * FIRST,
    ),
    "docvqa": Release(
        "DocVQA: the first 550 questions about forms and figures, and about layout",
        "lmms-lab/DocVQA", "DocVQA", "validation",
        {"questionId": pa.string(), "question": pa.string(), "question_types": pa.list_(pa.string()),
         "answers": pa.list_(pa.string())},
        {"counting": ("question_types", is_counting), "layout": ("question_types", is_layout)},
        draws=False, rows=None,
    ),
    "vtabfact": Release(
        "VTabFact: statements about pictures of tables, true or false, from TableVQA-Bench",
        "terryoo/TableVQA-Bench", None, "vtabfact",
        {"qa_id": pa.string(), "question": pa.string(), "gt": pa.string()}, {}, draws=False, rows=250,
        values={"gt": (*TRUE, *FALSE)},
    ),
    "vqav2": Release(
        "VQAv2: 650 questions about photographs, drawn from the validation split",
        "lmms-lab/VQAv2", None, "validation",
        {"question_id": pa.int64(), "question": pa.string(), "answers": _ANSWERS}, {}, draws=True, rows=DRAWN,
    ),
    "coco_captions": Release(
        "COCO captions: 650 photographs with five captions each, drawn from the validation images of 2017",
        "lmms-lab/COCO-Caption2017", None, "val",
        {"question_id": pa.string(), "answer": pa.list_(pa.string())}, {}, draws=True, rows=DRAWN,
    ),
}  # fmt: skip
"""Copy under `$LMMS_STEER_DATA` ▸ its release."""


def _schema(release: Release) -> pa.Schema:
    return image_schema(release.columns, images=["image"])


class _Columns:
    """The rows of parquet files, column by column."""

    def __init__(self, files: Sequence[Path], first: str) -> None:
        self._files, self._first = files, first

    def __getitem__(self, name: str) -> list[Any]:
        return [row[name] for path in self._files for row in parquet_rows(path, [name])]

    def __len__(self) -> int:
        return len(self[self._first])


def _import(name: str, release: Release, folder: Path, root: Path, limit: int | None) -> Iterator[Path]:
    name_of_files = f"{release.split}-*.parquet"
    # the repository of DocVQA has other configurations with a split of this name
    patterns = [f"**/{release.config}/{name_of_files}"] if release.config else []
    files = find_files(folder, [*patterns, f"**/{name_of_files}"], f"{name_of_files} of {release.hub}")
    places = release.places(_Columns(files, next(iter(release.columns))))
    order = {place: number for number, place in enumerate(places)}
    copy = LocalCopy(root / name, files)
    schema = _schema(release)
    # only the rows that are taken, of which there are few, are held in memory
    taken: dict[int, dict[str, Any]] = {}
    place = 0
    for path in files:
        for number, row in enumerate(parquet_rows(path, schema.names), start=1):
            if place in order:
                where = f"{str(path)!r}, row {number}"
                if problem := release.problem(row):
                    raise UserError(f"{where}: {problem}")
                check_images(row, "image", where)
                taken[order[place]] = row
            place += 1
    copy_rows(copy, release.split, (taken[number] for number in sorted(taken)), schema, limit)
    yield copy.finish()


def _write_stand_in(name: str, release: Release, folder: Path, questions: int, rng: random.Random) -> None:
    """Drawn scenes, with questions in the release's columns: as many of each kind, plus those that are held out."""
    kinds = list(release.kinds) or [""]
    rows = []
    for number in range((questions + HELD_OUT) * len(kinds)):
        scene = sample_scene(rng)
        sizes = SIZES if number < questions * len(kinds) else SMALL_SIZES
        image = image_cell(rng, scene, number, sizes=sizes)
        rows.append({**_STAND_INS[name](number, kinds[number % len(kinds)], scene, rng), "image": image})
    file = folder / (release.config or "data") / f"{release.split}-00000-of-00001.parquet"
    write_parquet(file, rows, _schema(release))


def _chart_row(number: int, kind: str, scene: Scene, _: random.Random) -> dict[str, Any]:
    question = f"How many things are in picture {number}?"
    return {"query": question, "label": [str(len(scene))], "human_or_machine": int(kind == "machine")}


def _document_row(number: int, kind: str, scene: Scene, _: random.Random) -> dict[str, Any]:
    types = ["layout"] if kind == "layout" else ["form", "handwritten"]
    name = sorted(scene)[0].name
    return {
        "questionId": str(number), "question": f"What is in picture {number}?", "question_types": types,
        "answers": [name, f"a {name}"],
    }  # fmt: skip


def _table_row(number: int, _: str, scene: Scene, rng: random.Random) -> dict[str, Any]:
    true = rng.random() < 0.5
    question = f"Picture {number} has {len(scene) + (not true)} things."
    return {"qa_id": str(number), "question": question, "gt": str(int(true))}


def _photo_row(number: int, _: str, scene: Scene, __: random.Random) -> dict[str, Any]:
    count = str(len(scene))
    given = [count] * 8 + ["many"] * 2
    answers = [{"answer": text, "answer_confidence": "yes", "answer_id": place} for place, text in enumerate(given, 1)]
    return {"question_id": number, "question": f"How many things are in picture {number}?", "answers": answers}


def _caption_row(number: int, _: str, scene: Scene, __: random.Random) -> dict[str, Any]:
    names = [thing.name for thing in sorted(scene)]
    captions = [f"A picture with a {' and a '.join(names[:shown])}." for shown in range(1, len(names) + 1)]
    return {"question_id": f"{number}.jpg", "answer": (captions * 5)[:5]}


_STAND_INS: dict[str, Callable[[int, str, Scene, random.Random], dict[str, Any]]] = {
    "chartqa": _chart_row,
    "docvqa": _document_row,
    "vtabfact": _table_row,
    "vqav2": _photo_row,
    "coco_captions": _caption_row,
}


def _register(name: str, release: Release) -> None:
    register_benchmark(
        Benchmark(
            name=name,
            description=release.description,
            copies={name: {release.split: release.rows}},
            import_release=lambda folder, root, limit: _import(name, release, folder, root, limit),
            write_stand_in=lambda folder, questions, rng: _write_stand_in(name, release, folder, questions, rng),
        )
    )


for _name, _release in RELEASES.items():
    _register(_name, _release)
