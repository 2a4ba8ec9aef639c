"""Write and check local copies: parquet files and images, in a folder that gets its name only when it is complete."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lmms_steer._util.hashing import file_sha256
from lmms_steer._util.io import write_atomically
from lmms_steer.data.benchmarks import official_rows
from lmms_steer.data.source import MANIFEST, Manifest, read_manifest
from lmms_steer.data.whole_images import check_whole
from lmms_steer.errors import UserError, reason

ROWS_PER_PART = 2000
"""Rows of a parquet file: the most that an import does again after it was killed."""


class LocalCopy:
    """A copy that is being written: `FOLDER.unfinished`, renamed to FOLDER by `finish`.

    Args:
        folder: of the finished copy.
        origin: the release's files. If their sizes or times have changed since an import was killed, its parts are
            deleted.

    Raises:
        UserError: if the folder cannot be written, or has something else than a copy in it.
    """

    def __init__(self, folder: Path, origin: Iterable[Path]) -> None:
        # `finish` replaces the folder
        if folder.is_dir() and not (folder / MANIFEST).is_file() and any(folder.iterdir()):
            raise UserError(f"{str(folder)!r} is not an imported copy: move it away, because the copy is written there")
        self.folder = folder
        self.work = _unfinished(folder)
        stats = sorted((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in origin)
        fingerprint = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
        stored = self.work / "origin"
        with disk_errors(self.work):
            if not stored.is_file() or stored.read_text() != fingerprint:
                shutil.rmtree(self.work, ignore_errors=True)
                self.work.mkdir(parents=True)
                stored.write_text(fingerprint)
        self.files: dict[str, list[str]] = {}
        self.rows: dict[str, int] = {}

    def write(self, split: str, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> Iterator[int]:
        """Write a split in parts; a part that an earlier import finished is not written again.

        Yields:
            The number of rows processed so far, for a progress bar.
        """
        names: list[str] = []
        done = 0
        stream = iter(rows)
        while chunk := list(islice(stream, ROWS_PER_PART)):
            name = f"{split}-{len(names):05d}.parquet"
            path = self.work / name
            with disk_errors(path):
                # an import that was killed may have had a limit
                if not path.is_file() or pq.read_metadata(path).num_rows != len(chunk):
                    table = pa.Table.from_pylist(chunk, schema=schema)
                    pq.write_table(table, path.with_suffix(".part"), row_group_size=500)
                    path.with_suffix(".part").replace(path)
            names.append(name)
            done += len(chunk)
            yield done
        self.files[split], self.rows[split] = names, done

    def add_image(self, source: Path, name: str) -> str:
        """Add an image file to the copy: a hard link where the file system allows it, otherwise a copy.

        Args:
            source: the file.
            name: its path below the copy's `images`; must not lead out of it.

        Returns:
            Its path in the copy.

        Raises:
            UserError: if the file is missing, empty or damaged, or cannot be copied.
        """
        target = self.work / "images" / name
        if not target.is_file():
            with disk_errors(target):
                target.parent.mkdir(parents=True, exist_ok=True)
                if not source.is_file():
                    raise UserError(f"the image {str(source)!r} is missing")
                if not source.stat().st_size:
                    raise UserError(f"the image {str(source)!r} is empty")
                check_whole(source, f"the image {str(source)!r}")
                try:
                    # a link to a relative link would lead nowhere
                    os.link(source.resolve(), target)
                except OSError:
                    temporary = target.with_name(f".{target.name}.part")
                    shutil.copyfile(source, temporary)
                    temporary.replace(target)
        return f"images/{name}"

    def finish(self) -> Path:
        """Write the manifest and give the folder its name: from now on tasks find it."""
        with disk_errors(self.work):
            parts = [name for names in self.files.values() for name in names]
            sha256 = {name: file_sha256(self.work / name) for name in parts}
        manifest = Manifest(self.rows, self.files, sha256)
        write_atomically(self.work / MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
        with disk_errors(self.folder):
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.work.rename(self.folder)
        return self.folder


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system and of pyarrow into a `UserError` that names the path."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot write {str(path)!r}: {reason(error)}") from error


def check_copies(root: Path) -> Iterator[tuple[bool, str]]:
    """Check every local copy.

    Args:
        root: `$LMMS_STEER_DATA`.

    Yields:
        For each copy, whether it is intact (a missing one is), and a line about it.
    """
    for name, splits in official_rows().items():
        folder = root / name
        if not (folder / MANIFEST).is_file():
            unfinished = _unfinished(folder).is_dir()
            yield not unfinished, f"{name}: {'an import was not finished, run it again' if unfinished else 'not here'}"
            continue
        try:
            yield True, f"{name}: {_summary(folder, splits)}"
        except UserError as error:
            yield False, f"{name}: {error}"


def partial_copy_warning(folder: Path, splits: Mapping[str, int | None]) -> Iterator[str]:
    """A warning if a copy has fewer or more rows than the release.

    Args:
        folder: of the copy.
        splits: the official number of rows by split; None is not checked.

    Raises:
        UserError: if its manifest is damaged.
    """
    rows = read_manifest(folder).rows
    if any(official not in (None, rows.get(split)) for split, official in splits.items()):
        yield "WARNING: not the whole release: a score on it is no score on the benchmark"


def _unfinished(folder: Path) -> Path:
    return folder.with_name(folder.name + ".unfinished")


def _summary(folder: Path, splits: Mapping[str, int | None]) -> str:
    """The rows of each split, counted in the files; checks that all files are there, as they were imported."""
    manifest = read_manifest(folder)
    counts = []
    for split, official in splits.items():
        files = manifest.files.get(split)
        if not files:
            raise UserError(f"has no split {split!r}")
        rows = 0
        for file in files:
            try:
                table = pq.ParquetFile(folder / file)
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{file} is missing or damaged: import it again") from error
            # earlier versions recorded no hash
            if manifest.sha256.get(file) not in (None, file_sha256(folder / file)):
                raise UserError(f"{file} has changed since it was imported: import it again")
            rows += table.metadata.num_rows
            _check_images(folder, table)
        if rows != manifest.rows[split]:
            raise UserError(f"{split} has {rows} rows, and had {manifest.rows[split]} when it was imported")
        counts.append(f"{split} {rows}{'' if official in (None, rows) else f' of {official}'} rows")
    return "; ".join([", ".join(counts), *partial_copy_warning(folder, splits)])


def _check_images(folder: Path, table: pq.ParquetFile) -> None:
    if "image_path" not in table.schema_arrow.names:
        return
    for path in set(table.read(columns=["image_path"]).column(0).to_pylist()):
        if not (folder / path).is_file():
            raise UserError(f"the image {path} is missing: import it again")
        if not (folder / path).stat().st_size:
            raise UserError(f"the image {path} is empty: import it again")
        check_whole(folder / path, f"the image {path}")
