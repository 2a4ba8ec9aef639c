"""`lmms-steer data import`: make a local copy of an official release. Nothing is redistributed."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from lmms_steer._util.progress import progress_bar
from lmms_steer.data.benchmarks import benchmarks
from lmms_steer.data.local_copy import LocalCopy, partial_copy_warning
from lmms_steer.errors import UserError


def import_release(benchmark: str, release: Path, root: Path, limit: int | None = None) -> Iterator[str]:
    """Import one benchmark.

    Args:
        benchmark: a name in `benchmarks`.
        release: the folder that the release was unpacked or downloaded to.
        root: `$LMMS_STEER_DATA`.
        limit: the largest number of rows of a split; None: all.

    Yields:
        A line for each finished copy.

    Raises:
        UserError: if the release is missing, incomplete, in the place of its copy, or has a bad row. An unfinished copy
            is never used by a task.
    """
    entry = benchmarks.get(benchmark)
    if not release.is_dir():
        raise UserError(f"--from {str(release)!r} is not a folder")
    for name in entry.copies:
        if release.resolve().is_relative_to((root / name).resolve()):
            raise UserError(f"--from {str(release)!r} is where the copy goes: move the release to another folder")
    for folder in entry.import_release(release, root, limit):
        official = entry.copies.get(folder.relative_to(root).as_posix(), {})
        yield "; ".join([f"{benchmark}: {folder}", *partial_copy_warning(folder, official)])


def copy_rows(
    copy: LocalCopy, split: str, rows: Iterator[dict[str, Any]], schema: pa.Schema, limit: int | None
) -> None:
    """Write a split's rows into a copy, with a progress bar.

    Args:
        copy: to write to.
        split: the name of the split.
        rows: one dictionary a row, with the schema's columns.
        schema: of the parquet files.
        limit: the largest number of rows; None: all.

    Raises:
        UserError: if there is no row.
    """
    with progress_bar(desc=f"{copy.folder.name} {split}", unit=" rows") as bar:
        for done in copy.write(split, islice(rows, limit), schema):
            bar.update(done - bar.n)
    if not copy.rows[split]:
        raise UserError(f"{copy.folder.name}: the release holds no row for its split {split!r}")
