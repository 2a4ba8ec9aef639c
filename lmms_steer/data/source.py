"""Where a task's data comes from: a local copy under `$LMMS_STEER_DATA`, else the Hub.

The task files read it while lmms-eval loads them: `dataset_path: !function utils.path` may name a value as well as a
function.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_steer.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Source:
    """What `datasets.load_dataset` is called with."""

    path: str
    name: str | None
    kwargs: dict[str, Any]


def data_dir() -> Path | None:
    """`$LMMS_STEER_DATA`, or None where it is not set."""
    named = os.environ.get("LMMS_STEER_DATA")
    return Path(named).expanduser() if named else None


def find_source(benchmark: str, split: str, hub: str | None, name: str | None = None) -> Source:
    """The data of one benchmark.

    Args:
        benchmark: its folder under `$LMMS_STEER_DATA` (`cvbench`, `blink/Counting`, …).
        split: the split that the task reads.
        hub: the dataset's id on the Hub; None: there is none, the official release has to be imported.
        name: its configuration there.

    Raises:
        UserError: where neither is there, or the local copy was not finished.
    """
    root = data_dir()
    folder = root / benchmark if root is not None else None
    if folder is not None and (folder / MANIFEST).is_file():
        files = [str(folder / file) for file in read_manifest(folder)["files"][split]]
        return Source("parquet", None, {"data_files": {split: files}})
    if hub is not None and (root is None or folder is None or not folder.exists()):
        return Source(hub, name, {})
    benchmark = benchmark.split("/", maxsplit=1)[0]
    if root is None:
        raise UserError(
            f"{benchmark} is not on the Hub: set LMMS_STEER_DATA=DIR, lmms-steer data import {benchmark} --from RELEASE"
        )
    raise UserError(
        f"{str(folder)!r} holds no finished copy of {benchmark}: run lmms-steer data import {benchmark} --from RELEASE"
    )


def with_pictures(dataset: "Dataset", benchmark: str) -> "Dataset":
    """A local copy's rows with their pictures in a column `image`, opened when they are looked at.

    Rows that hold their pictures already stay as they are.
    """
    root = data_dir()
    if root is None or "image_path" not in dataset.column_names:
        return dataset
    from datasets import Image

    paths = [str(root / benchmark / path) for path in dataset["image_path"]]
    return dataset.add_column("image", paths).cast_column("image", Image())


def read_manifest(folder: Path) -> dict[str, Any]:
    """What an import left beside its files: `rows` and `files` by split, `columns`.

    Raises:
        UserError: when it is damaged.
    """
    try:
        data: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return {**data, "rows": dict(data["rows"]), "files": dict(data["files"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{str(folder / MANIFEST)!r} is damaged: import it again") from error


def task_attribute(benchmark: str, split: str, hub: str | None, attribute: str) -> Any:
    """What `!function utils.ATTRIBUTE` gives: `path`, `name`, `kwargs`, with `_CONFIG` behind for one of several.

    Raises:
        AttributeError: for any other attribute, as a module's `__getattr__` has to.
    """
    field, _, config = attribute.partition("_")
    if field not in ("path", "name", "kwargs"):
        raise AttributeError(attribute)
    found = find_source(f"{benchmark}/{config}" if config else benchmark, split, hub, config or None)
    return getattr(found, field)
