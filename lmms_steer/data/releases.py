"""The official releases, read row by row: one function a benchmark, each row checked and named by file and number."""

import json
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath
from typing import Any

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

from lmms_steer.errors import UserError, first_line

QUESTION = pa.schema(
    [
        ("image_path", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("family", pa.int32()),
        ("kind", pa.string()),
        ("question_index", pa.int64()),
    ]
)
CAPTIONS = pa.schema([("image_path", pa.string()), ("caption_options", pa.list_(pa.string())), ("TARGET", pa.int64())])


def clevr_questions(path: Path) -> Iterator[dict[str, Any]]:
    """`CLEVR_{train,val}_questions.json` of CLEVR v1.0, or `superCLEVR_questions_30k.json`, without reading it whole.

    Yields:
        `image` (the file's name), `image_index`, `question`, `answer` as text, `family`, `question_index`.

    Raises:
        UserError: for a file that is cut off, a question without an answer (CLEVR's test split has none), or a
            picture's name that leads out of a folder.
    """
    number = 0
    with _opened(path) as file:
        try:
            for number, entry in enumerate(ijson.items(file, "questions.item"), start=1):
                yield _question(entry, path, number)
        except ijson.JSONError as error:
            raise UserError(
                f"{str(path)!r} is cut off or no JSON after question {number}: {first_line(error)}"
            ) from error
    if not number:
        raise UserError(f"{str(path)!r} holds no 'questions'")


def _question(entry: Any, path: Path, number: int) -> dict[str, Any]:
    where = f"{str(path)!r}, question {number}"
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected a question with its fields")
    for field in ("image_filename", "question", "answer"):
        if field not in entry:
            hint = " (CLEVR's test split has no answers)" if field == "answer" else ""
            raise UserError(f"{where} has no {field!r}{hint}")
    answer = entry["answer"]
    if not isinstance(answer, str | int | bool):
        raise UserError(f"{where}: the answer {answer!r} is no text, number or truth value")
    image_index = entry.get("image_index", -1)
    if not isinstance(image_index, int):
        raise UserError(f"{where}: the image_index {image_index!r} is no whole number")
    # Super-CLEVR has numbers and truth values where CLEVR has texts
    said = ("yes" if answer else "no") if isinstance(answer, bool) else str(answer)
    return {
        "image": _picture(str(entry["image_filename"]), where),
        "image_index": image_index,
        "question": str(entry["question"]),
        "answer": said,
        "family": int(entry.get("question_family_index", -1)),
        "kind": _kind(entry, said),
        "question_index": int(entry.get("question_index", number - 1)),
    }


def _kind(entry: dict[str, Any], answer: str) -> str:
    """count, exist, query, compare_number or compare_attribute, by the program's last step; else by the answer."""
    program = entry.get("program")
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


def whatsup_records(path: Path) -> Iterator[dict[str, Any]]:
    """`controlled_images_dataset.json` (A) or `controlled_clevr_dataset.json` (B): image path and four captions.

    Raises:
        UserError: for a file that is cut off, a record without four different captions, or a picture's name that leads
            out of a folder.
    """
    number = 0
    with _opened(path) as file:
        try:
            for number, entry in enumerate(ijson.items(file, "item"), start=1):
                where = f"{str(path)!r}, record {number}"
                captions = entry.get("caption_options") if isinstance(entry, dict) else None
                if not isinstance(captions, list) or not isinstance(entry.get("image_path"), str):
                    raise UserError(f"{where}: expected image_path and caption_options")
                if len(captions) != 4 or len(set(captions)) != 4:
                    raise UserError(f"{where}: expected four different captions, got {captions!r}")
                yield {"image": _picture(entry["image_path"], where), "caption_options": captions, "TARGET": 0}
        except ijson.JSONError as error:
            raise UserError(
                f"{str(path)!r} is cut off or no JSON after record {number}: {first_line(error)}"
            ) from error
    if not number:
        raise UserError(f"{str(path)!r} holds no record")


def _picture(name: str, where: str) -> str:
    """The name as it stands, which is to become a path in the copy.

    Raises:
        UserError: for one that leads out of a folder, on whichever system.
    """
    # these rules know both slashes, and drives
    path = PureWindowsPath(name)
    if path.anchor or ".." in path.parts or not path.name:
        raise UserError(f"{where}: the picture {name!r}: expected a path inside the release, without '..'")
    return name


def parquet_rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows of one of the Hub's parquet files, a few at a time.

    Raises:
        UserError: for a file that is cut off, or a column that is not there (any more).
    """
    try:
        file = pq.ParquetFile(path)
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise UserError(f"{str(path)!r} has no column {missing[0]!r}; it has {', '.join(file.schema_arrow.names)}")
        for batch in file.iter_batches(batch_size=100, columns=list(columns)):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{str(path)!r} is cut off or no parquet file: {first_line(error)}") from error


def check_choice(row: dict[str, Any], path: Path, number: int) -> None:
    """A row of CV-Bench or BLINK: an answer that is one of its choices, and choices that differ.

    Raises:
        UserError: with the file and the row.
    """
    choices, answer = row["choices"], str(row["answer"]).strip("()")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(choices)]
    where = f"{str(path)!r}, row {number}"
    if len(answer) != 1 or answer not in letters:
        raise UserError(f"{where}: the answer {row['answer']!r} is none of its {len(choices)} choices")
    if choices.count(choices[letters.index(answer)]) > 1:
        raise UserError(f"{where}: the right choice {choices[letters.index(answer)]!r} stands there twice")


def image_schema(columns: dict[str, pa.DataType], images: tuple[str, ...], lists: tuple[str, ...] = ()) -> pa.Schema:
    """A schema whose columns `images`, and lists of images `lists`, `datasets` reads as pictures, as on the Hub."""
    stored = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features: dict[str, Any] = {name: _feature(kind) for name, kind in columns.items()}
    features |= {name: {"_type": "Image"} for name in images}
    features |= {name: {"feature": {"_type": "Image"}, "_type": "List"} for name in lists}
    fields = [*columns.items(), *((name, stored) for name in images), *((name, pa.list_(stored)) for name in lists)]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    return {"dtype": str(kind), "_type": "Value"}


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
