"""Writing a local copy: parquet parts and pictures, in a folder that gets its name only when it is whole.

`lmms-steer data check`: what is there, and whether it is what the tasks expect.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmms_steer._util.io import write_atomically
from lmms_steer.data.official import OFFICIAL_ROWS, partial_copy_warning
from lmms_steer.data.source import MANIFEST, read_manifest
from lmms_steer.errors import UserError, first_line

ROWS_PER_PART = 2000
"""Rows a part: what a killed import has to do again, at most."""


class LocalCopy:
    """A copy in the making: `FOLDER.unfinished`, renamed to FOLDER by `finish`.

    Args:
        folder: where the copy belongs.
        origin: files of the release; if their sizes or times change, what a killed import left is thrown away.

    Raises:
        UserError: where the folder cannot be written.
    """

    def __init__(self, folder: Path, origin: Iterable[Path]) -> None:
        self.folder = folder
        self.work = folder.with_name(folder.name + ".unfinished")
        stats = sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in origin)
        mark = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
        with disk_errors(self.work):
            if not (self.work / "origin").is_file() or (self.work / "origin").read_text() != mark:
                shutil.rmtree(self.work, ignore_errors=True)
                self.work.mkdir(parents=True)
                (self.work / "origin").write_text(mark)
        self.files: dict[str, list[str]] = {}
        self.rows: dict[str, int] = {}

    def write(self, split: str, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[int]:
        """Write a split's rows in parts; yields the rows written or skipped so far, for progress.

        A part that an earlier import finished is not written again.
        """
        names: list[str] = []
        done = 0
        stream = iter(rows)
        while chunk := list(islice(stream, ROWS_PER_PART)):
            name = f"{split}-{len(names):05d}.parquet"
            path = self.work / name
            if not path.is_file():
                with disk_errors(path):
                    table = pa.Table.from_pylist(chunk, schema=schema)
                    pq.write_table(table, path.with_suffix(".part"), row_group_size=500)
                    path.with_suffix(".part").replace(path)
            names.append(name)
            done += len(chunk)
            yield done
        self.files[split], self.rows[split] = names, done

    def picture(self, source: Path, name: str) -> str:
        """Bring a picture into the copy: a hard link where the disk allows it; returns its name there.

        Args:
            source: the file.
            name: its path in the copy's folder of pictures, which it does not lead out of.

        Raises:
            UserError: when it is missing or cannot be read.
        """
        target = self.work / "images" / name
        if not target.is_file():
            with disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                if not source.is_file():
                    raise UserError(f"the picture {str(source)!r} is missing")
                try:
                    os.link(source, target)
                except OSError:
                    temporary = target.with_name(f".{target.name}.part")
                    shutil.copyfile(source, temporary)
                    temporary.replace(target)
        return f"images/{name}"

    def finish(self, **more: Any) -> Path:
        """Give the folder its name: from now on tasks find it."""
        listing = {"rows": self.rows, "files": self.files, **more}
        write_atomically(self.work / MANIFEST, json.dumps(listing, indent=1).encode())
        with disk_errors(self.folder):
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.work.rename(self.folder)
        return self.folder


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Inside, what the disk refuses is a user's error that names the path."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"cannot write {str(path)!r}: {reason}") from error


def check_copies(root: Path) -> Iterator[tuple[bool, str]]:
    """For every benchmark: whether it can be used, and a line that says what is there."""
    for name, splits in OFFICIAL_ROWS.items():
        folder = root / name
        if not (folder / MANIFEST).is_file():
            unfinished = folder.with_name(folder.name + ".unfinished").is_dir()
            yield not unfinished, f"{name}: {'an import was not finished, run it again' if unfinished else 'not here'}"
            continue
        try:
            yield True, f"{name}: {_counted(folder, splits)}"
        except UserError as error:
            yield False, f"{name}: {error}"


def _counted(folder: Path, splits: dict[str, int | None]) -> str:
    listing = read_manifest(folder)
    told = []
    for split, expected in splits.items():
        files = listing["files"].get(split)
        if not files:
            raise UserError(f"has no split {split!r}")
        rows = 0
        for file in files:
            try:
                table = pq.ParquetFile(folder / file)
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{file} is missing or damaged: import it again") from error
            rows += table.metadata.num_rows
            _pictures(folder, table)
        if rows != listing["rows"][split]:
            raise UserError(f"{split} has {rows} rows, and had {listing['rows'][split]} when it was imported")
        told.append(f"{split} {rows}{'' if expected in (None, rows) else f' of {expected}'} rows")
    return "; ".join([", ".join(told), *partial_copy_warning(folder, splits)])


def _pictures(folder: Path, table: pq.ParquetFile) -> None:
    if "image_path" not in table.schema_arrow.names:
        return
    for path in set(table.read(columns=["image_path"]).column(0).to_pylist()):
        if not (folder / path).is_file():
            raise UserError(f"the picture {path} is missing: import it again")
