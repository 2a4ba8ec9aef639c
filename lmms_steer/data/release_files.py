"""Read the files of official releases row by row; a bad row is reported with its file and number.

Releases come as the Hub's parquet files, or as a JSON file with a folder of images. The JSON files have hundreds of
megabytes, so they are parsed as a stream.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path, PureWindowsPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmms_steer._util.extras import require_extra
from lmms_steer.data.whole_images import check_whole
from lmms_steer.errors import UserError, first_line, reason
from lmms_steer.scoring.choice import LETTERS

_NUMBERED = re.compile(r"(.*)-([0-9]+)-of-([0-9]+)\.parquet")
"""A part of a split, as the Hub names it: `train-00000-of-00021.parquet`."""


def find_files(release: Path, patterns: Sequence[str], wanted: str, beginning: bool = False) -> list[Path]:
    """The files of the first pattern that any file matches.

    Args:
        release: the release's folder.
        patterns: glob patterns relative to it.
        wanted: the name of the files, for the message.
        beginning: as for `whole`.

    Raises:
        UserError: if no pattern matches; as `whole`.
    """
    for pattern in patterns:
        files = sorted(release.glob(pattern))
        if files:
            return whole(files, beginning)
    raise UserError(f"{str(release)!r} holds no {wanted}: is it the release's folder?")


def whole(files: Sequence[Path], beginning: bool = False) -> list[Path]:
    """The files, of which no numbered one may be missing.

    Args:
        files: sorted.
        beginning: whether the first one is enough. Those that follow a missing one are left out.

    Raises:
        UserError: if one is missing.
    """
    parts: dict[tuple[Path, str, str], dict[int, Path]] = defaultdict(dict)
    for path in files:
        if match := _NUMBERED.fullmatch(path.name):
            parts[path.parent, match[1], match[3]][int(match[2])] = path
    left_out: set[Path] = set()
    for (folder, split, total), present in parts.items():
        missing = int(total) - len(present)
        if missing <= 0:
            continue
        first = next(number for number in count() if number not in present)
        name = f"{split}-{first:0{len(total)}d}-of-{total}.parquet"
        if beginning and first > 0:
            left_out |= {path for number, path in present.items() if number > first}
            continue
        lacking = name if beginning else f"{missing} of {int(total)} files, the first of them {name}"
        raise UserError(f"{str(folder)!r} lacks {lacking}: download what is missing")
    return [path for path in files if path not in left_out]


def parquet_rows(path: Path, columns: Sequence[str], pictured: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows of one of the Hub's parquet files, a hundred at a time in memory.

    Args:
        path: of the file.
        columns: names of the columns.
        pictured: the column that holds an image, or a list of images, in every row.

    Raises:
        UserError: if the file is damaged or lacks a column, or a row has no image or a damaged one.
    """
    try:
        file = pq.ParquetFile(path)
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise UserError(f"{str(path)!r} has no column {missing[0]!r}; it has {', '.join(file.schema_arrow.names)}")
        batches = file.iter_batches(batch_size=100, columns=list(columns))
        for number, row in enumerate(chain.from_iterable(batch.to_pylist() for batch in batches), start=1):
            if pictured is not None:
                check_images(row, pictured, f"{str(path)!r}, row {number}")
            yield row
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{str(path)!r} is cut off or not a parquet file: {reason(error)}") from error


def check_images(row: Mapping[str, Any], pictured: str, where: str) -> None:
    """Check that a cell holds the bytes of its image or images; some files name them by a path only.

    Args:
        row: of a parquet file.
        pictured: the column of the cell.
        where: file and number of the row, for messages.

    Raises:
        UserError: if there is none, or one is damaged.
    """
    images = row[pictured] if isinstance(row[pictured], list) else [row[pictured]]
    if not images or not all(isinstance(image, dict) and image.get("bytes") for image in images):
        raise UserError(f"{where}: there is no image in {pictured!r}")
    for image in images:
        check_whole(image["bytes"], f"{where}: the image in {pictured!r}")


def lettered_rows(
    files: Sequence[Path], columns: Sequence[str], pictured: str, others: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """The rows of parquet files with the columns `choices` and `answer` (a letter, as `(B)`), checked.

    Args:
        files: the files.
        columns, pictured: as for `parquet_rows`.
        others: columns that hold an image in some rows.

    Raises:
        UserError: as `parquet_rows`; if an answer is not the letter of a choice, or the correct choice appears twice.
    """
    for path in files:
        for number, row in enumerate(parquet_rows(path, columns, pictured), start=1):
            where = f"{str(path)!r}, row {number}"
            _check_lettered(row, where)
            for name in others:
                if row[name] is not None:
                    check_images(row, name, where)
            yield row


def _check_lettered(row: dict[str, Any], where: str) -> None:
    choices, answer = row["choices"] or [], str(row["answer"]).strip("()")
    letters = LETTERS[: len(choices)]
    if len(answer) != 1 or answer not in letters:
        raise UserError(f"{where}: the answer {row['answer']!r} is not the letter of one of its {len(choices)} choices")
    correct = choices[letters.index(answer)]
    if choices.count(correct) > 1:
        raise UserError(f"{where}: the correct choice {correct!r} appears more than once")


def json_items(path: Path, prefix: str, noun: str) -> Iterator[tuple[str, Any]]:
    """The items of a list in a JSON file, parsed as a stream.

    Args:
        path: of the file.
        prefix: where the items are, as ijson writes it: `item` for a list, `questions.item` for a list under a key.
        noun: what an item is, in the singular, for messages.

    Yields:
        Where the item is (file and number), for messages, and the item.

    Raises:
        UserError: if the file cannot be read, is damaged, or has no item.
    """
    require_extra("data", "a large JSON file")
    import ijson

    number = 0
    try:
        with path.open("rb") as file:
            for number, item in enumerate(ijson.items(file, prefix), start=1):
                yield f"{str(path)!r}, {noun} {number}", item
    except ijson.JSONError as error:
        raise UserError(f"{str(path)!r} is cut off or not JSON after {noun} {number}: {first_line(error)}") from error
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {reason(error)}") from error
    if not number:
        raise UserError(f"{str(path)!r} holds no {noun}")


def checked_image_name(name: str, where: str) -> str:
    """The name of an image in a release, unchanged. It becomes a path in the copy.

    Args:
        name: the image's path, as the release gives it.
        where: file and number of the row, for messages.

    Raises:
        UserError: if it leads out of its folder, on any operating system.
    """
    # the Windows rules know both kinds of slash, and drives
    path = PureWindowsPath(name)
    if path.anchor or ".." in path.parts or not path.name:
        raise UserError(f"{where}: the image {name!r}: expected a path inside the release, without '..'")
    return name


def find_image(name: str, folders: Sequence[Path], listed_in: Path) -> Path:
    """The file of an image: by its whole path or any end of it, in the first folder that has it.

    Args:
        name: as `checked_image_name` returns it.
        folders: where to look.
        listed_in: the file that names it, for the message.

    Raises:
        UserError: if no folder has it.
    """
    parts = Path(name).parts
    for folder in folders:
        for start in range(len(parts)):
            candidate = folder.joinpath(*parts[start:])
            if candidate.is_file():
                return candidate
    raise UserError(f"{str(listed_in)!r} names the image {name!r}, which is not in the release")


def image_schema(
    columns: Mapping[str, pa.DataType], images: Sequence[str] = (), image_lists: Sequence[str] = ()
) -> pa.Schema:
    """A schema with image columns that `datasets` decodes, as the Hub's parquet files have it.

    Args:
        columns: the other columns.
        images: names of columns with one image each.
        image_lists: names of columns with a list of images each.
    """
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    features: dict[str, Any] = {name: _feature(kind) for name, kind in columns.items()}
    features |= {name: {"_type": "Image"} for name in images}
    features |= {name: {"feature": {"_type": "Image"}, "_type": "List"} for name in image_lists}
    fields = [*columns.items(), *((name, image) for name in images), *((name, pa.list_(image)) for name in image_lists)]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: pa.DataType) -> dict[str, Any]:
    """A column's type as `datasets` writes it into a parquet file."""
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": str(kind), "_type": "Value"}
