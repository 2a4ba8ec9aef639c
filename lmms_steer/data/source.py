"""Where a task's data comes from: a local copy under `$LMMS_STEER_DATA` if there is one, otherwise the Hub.

The task files ask for it while lmms-eval loads them: `dataset_path: !function utils.path` may name a value instead of a
function, and each `utils.py` answers such names with `task_attribute`.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmms_steer.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Source:
    """The arguments for `datasets.load_dataset`."""

    path: str
    name: str | None
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of a finished copy, stored in its folder as `manifest.json`.

    Attributes:
        rows: the number of rows of each split.
        files: the parquet files of each split, relative to the copy's folder.
        sha256: the hash of each file; empty in copies of earlier versions. A recipe's cells depend on the manifest.
    """

    rows: dict[str, int]
    files: dict[str, list[str]]
    sha256: dict[str, str] = field(default_factory=dict)


def data_dir() -> Path | None:
    """`$LMMS_STEER_DATA`, or None if it is not set."""
    value = os.environ.get("LMMS_STEER_DATA")
    return Path(value).expanduser() if value else None


def find_source(
    copy: str, split: str, hub: str | None, config: str | None = None, hub_files: str | None = None
) -> Source:
    """Find the data of one task.

    Args:
        copy: the local copy's folder under `$LMMS_STEER_DATA` (`cvbench`, `blink/Counting`, …).
        split: the split that the task reads.
        hub: the dataset's id on the Hub. None: it is not there, so the official release has to be imported.
        config: the dataset's configuration on the Hub.
        hub_files: the only file of the dataset that is read from the Hub, for a task that needs no others.

    Raises:
        UserError: if there is neither a local copy nor a dataset on the Hub, or the copy's import was not finished, or
            the copy is damaged.
    """
    root = data_dir()
    folder = root / copy if root is not None else None
    benchmark = copy.split("/", maxsplit=1)[0]
    if folder is not None and (folder / MANIFEST).is_file():
        files = read_manifest(folder).files
        if split not in files:
            raise UserError(f"{str(folder)!r} has no split {split!r}: import {benchmark} again")
        paths = [folder / file for file in files[split]]
        for path in paths:
            _check_parquet(path, benchmark)
        return Source("parquet", None, {"data_files": {split: list(map(str, paths))}})
    if hub is not None and (folder is None or not folder.exists()):
        # without checks, as datasets before 5.2 wants the card's other splits too
        only = {"data_files": {split: hub_files}, "verification_mode": "no_checks"}
        return Source(hub, config, only if hub_files is not None else {})
    if folder is None:
        raise UserError(
            f"{benchmark} is not on the Hub: set LMMS_STEER_DATA=DIR, lmms-steer data import {benchmark} --from RELEASE"
        )
    raise UserError(
        f"{str(folder)!r} holds no finished copy of {benchmark}: run lmms-steer data import {benchmark} --from RELEASE"
    )


def _check_parquet(path: Path, benchmark: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{str(path)!r} is missing or damaged: import {benchmark} again") from error


def task_attribute(benchmark: str, split: str, hub: str | None, attribute: str) -> Any:
    """The value for `!function utils.ATTRIBUTE` in a task file.

    Args:
        benchmark: the benchmark's folder under `$LMMS_STEER_DATA`.
        split: the split that the task reads.
        hub: as of `find_source`.
        attribute: `path`, `name` or `kwargs`; followed by `_CONFIG` for a dataset with several configurations.

    Raises:
        AttributeError: for any other attribute, as a module's `__getattr__` must.
    """
    field, _, config = attribute.partition("_")
    if field not in ("path", "name", "kwargs"):
        raise AttributeError(attribute)
    source = find_source(f"{benchmark}/{config}" if config else benchmark, split, hub, config or None)
    return getattr(source, field)


def with_images(dataset: "Dataset", copy: str) -> "Dataset":
    """Add a column `image` to a local copy whose rows name image files; the files are opened on access.

    Rows that hold their images stay unchanged.

    Args:
        dataset: the rows.
        copy: the local copy's folder under `$LMMS_STEER_DATA`.

    Raises:
        UserError: if an image is missing.
    """
    root = data_dir()
    if root is None or "image_path" not in dataset.column_names:
        return dataset
    from datasets import Image

    paths = [str(root / copy / path) for path in dataset["image_path"]]
    missing = next((path for path in dict.fromkeys(paths) if not Path(path).is_file()), None)
    if missing is not None:
        raise UserError(f"{missing!r} is missing: import {copy.split('/', maxsplit=1)[0]} again")
    return dataset.add_column("image", paths).cast_column("image", Image())


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a finished copy.

    Raises:
        UserError: if it is damaged.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Manifest(dict(content["rows"]), dict(content["files"]), dict(content.get("sha256", {})))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{str(folder / MANIFEST)!r} is damaged: import it again") from error
