"""`lmms-steer data check`: what is there, and whether it is what the tasks expect."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lmms_steer.data.official import ROWS, part_of
from lmms_steer.data.source import MANIFEST, manifest
from lmms_steer.errors import UserError


def check(root: Path) -> Iterator[tuple[bool, str]]:
    """For every benchmark: whether it can be used, and a line that says what is there."""
    for name, splits in ROWS.items():
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
    listing = manifest(folder)
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
    return "; ".join([", ".join(told), *part_of(folder, splits)])


def _pictures(folder: Path, table: pq.ParquetFile) -> None:
    if "image_path" not in table.schema_arrow.names:
        return
    for path in set(table.read(columns=["image_path"]).column(0).to_pylist()):
        if not (folder / path).is_file():
            raise UserError(f"the picture {path} is missing: import it again")
