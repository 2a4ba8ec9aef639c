"""`lmms-steer data import`: an official release ▸ a local copy that our tasks read. Nothing is redistributed."""

from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from lmms_steer.data import releases
from lmms_steer.data.local_copy import LocalCopy
from lmms_steer.data.official import BLINK, OFFICIAL_ROWS, partial_copy_warning
from lmms_steer.errors import UserError, unknown_name

CVBENCH_COLUMNS = {
    **{"idx": pa.int32(), "type": pa.string(), "task": pa.string(), "question": pa.string()},
    **{"choices": pa.list_(pa.string()), "answer": pa.string(), "prompt": pa.string(), "source": pa.string()},
}
BLINK_COLUMNS = {
    **{"idx": pa.string(), "question": pa.string(), "sub_task": pa.string(), "choices": pa.list_(pa.string())},
    **{"answer": pa.string(), "prompt": pa.string()},
}
BLINK_IMAGES = ("image_1", "image_2", "image_3", "image_4")
COUNT_COLUMNS = {"problem": pa.string(), "answer": pa.string()}


def import_release(benchmark: str, release: Path, root: Path, limit: int | None = None) -> Iterator[str]:
    """Import one benchmark; yields a line for every copy that was finished.

    Args:
        benchmark: a key of `IMPORTERS`.
        release: the folder that the release was unpacked or downloaded to.
        root: `$LMMS_STEER_DATA`.
        limit: the most questions of a split; all where None.

    Raises:
        UserError: for a release that is not there, not whole, or not what it should be; nothing half-imported is left
            where a task would take it for whole.
    """
    if benchmark not in IMPORTERS:
        raise unknown_name("benchmark", benchmark, IMPORTERS)
    if not release.is_dir():
        raise UserError(f"--from {str(release)!r} is no folder")
    for folder in IMPORTERS[benchmark](release, root, limit):
        yield "; ".join(
            [
                f"{benchmark}: {folder}",
                *partial_copy_warning(folder, OFFICIAL_ROWS.get(folder.relative_to(root).as_posix(), {})),
            ]
        )


def _cvbench(release: Path, root: Path, limit: int | None) -> Iterator[Path]:
    files = _found(release, ["test*.parquet", "*/test*.parquet"], "test*.parquet")
    # the repository has all questions in test.parquet, and again in test_2d and test_3d
    whole = [path for path in files if not path.stem.endswith(("_2d", "_3d"))] or files
    schema = releases.image_schema(CVBENCH_COLUMNS, ("image",))
    yield _parquet(root / "cvbench", "test", whole, schema, limit)


def _blink(release: Path, root: Path, limit: int | None) -> Iterator[Path]:
    schema = releases.image_schema(BLINK_COLUMNS, BLINK_IMAGES)
    found = False
    for config in BLINK:
        files = sorted(release.glob(f"{config}/val*.parquet"))
        if files:
            found = True
            yield _parquet(root / "blink" / config, "val", files, schema, limit)
    if not found:
        raise UserError(f"{str(release)!r} holds no BLINK: expected folders such as Counting/ with val*.parquet")


def _whatsup(release: Path, root: Path, limit: int | None) -> Iterator[Path]:
    for letter, name in (("a", "controlled_images_dataset.json"), ("b", "controlled_clevr_dataset.json")):
        path = _one(release, name)
        copy = LocalCopy(root / f"whatsup_{letter}", [path])
        folders = [path.parent, path.parent / "data"]
        rows = (
            {**row, "image_path": copy.picture(_beside(row["image"], folders, path), row["image"])}
            for row in releases.whatsup_records(path)
        )
        yield _written(copy, f"Controlled_Images_{letter.upper()}", rows, releases.CAPTIONS, limit)


def _clevr(release: Path, root: Path, limit: int | None) -> Iterator[Path]:
    yield _questions(root / "clevr", "val", _one(release, "CLEVR_val_questions.json"), release, "val", limit)


def _clevr_count(release: Path, root: Path, limit: int | None) -> Iterator[Path]:
    schema = releases.image_schema(COUNT_COLUMNS, (), lists=("images",))
    copy_files = {
        split: _found(release, [f"{split}*.parquet", f"*/{split}*.parquet"], split) for split in ("train", "test")
    }
    copy = LocalCopy(root / "clevr_count", list(chain(*copy_files.values())))
    for split, files in copy_files.items():
        # the paper's CLEVR is the first 500 questions of `train`
        most = min(limit or 500, 500) if split == "train" else limit
        rows = chain.from_iterable(releases.parquet_rows(path, tuple(schema.names)) for path in files)
        _run_through(copy, split, rows, schema, most)
    yield copy.finish()


def _superclevr(release: Path, root: Path, limit: int | None) -> Iterator[Path]:
    path = _one(release, "superCLEVR_questions_30k.json")
    # by index: 0-19999 train, 20000-24999 val, 25000-29999 test (the release's README)
    yield _questions(root / "superclevr", "test", path, release, "", limit, least_image=25000)


def _questions(
    folder: Path, split: str, path: Path, release: Path, pictures: str, limit: int | None, least_image: int = 0
) -> Path:
    copy = LocalCopy(folder, [path])
    roots = [path.parent.parent / "images" / pictures, release / "images" / pictures, path.parent / "images"]
    rows = (
        {**row, "image_path": copy.picture(_beside(row["image"], roots, path), row["image"])}
        for row in releases.clevr_questions(path)
        if row["image_index"] >= least_image
    )
    return _written(copy, split, rows, releases.QUESTION, limit)


def _parquet(folder: Path, split: str, files: list[Path], schema: pa.Schema, limit: int | None) -> Path:
    def rows() -> Iterator[dict[str, Any]]:
        for path in files:
            for number, row in enumerate(releases.parquet_rows(path, tuple(schema.names)), start=1):
                releases.check_choice(row, path, number)
                yield row

    return _written(LocalCopy(folder, files), split, rows(), schema, limit)


def _written(copy: LocalCopy, split: str, rows: Iterator[dict[str, Any]], schema: pa.Schema, limit: int | None) -> Path:
    _run_through(copy, split, rows, schema, limit)
    return copy.finish()


def _run_through(
    copy: LocalCopy, split: str, rows: Iterator[dict[str, Any]], schema: pa.Schema, limit: int | None
) -> None:
    with tqdm(desc=f"{copy.folder.name} {split}", unit=" rows", disable=None) as bar:
        for done in copy.write(split, islice(rows, limit), schema):
            bar.update(done - bar.n)
    if not copy.rows[split]:
        raise UserError(f"{copy.folder.name}: the release holds no row for its split {split!r}")


def _found(release: Path, patterns: list[str], wanted: str) -> list[Path]:
    for pattern in patterns:
        files = sorted(release.glob(pattern))
        if files:
            return files
    raise UserError(f"{str(release)!r} holds no {wanted}: is it the release's folder?")


def _one(release: Path, name: str) -> Path:
    files = sorted(release.rglob(name))
    if not files:
        raise UserError(f"{str(release)!r} holds no {name}: is it the release's folder?")
    return files[0]


def _beside(image: str, folders: list[Path], where: Path) -> Path:
    """A picture that a JSON names, by the whole path or its end; `releases` gives no name that leads out."""
    parts = Path(image).parts
    for folder in folders:
        for start in range(len(parts)):
            candidate = folder.joinpath(*parts[start:])
            if candidate.is_file():
                return candidate
    raise UserError(f"{str(where)!r} names the picture {image!r}, which is not in the release")


IMPORTERS: dict[str, Callable[[Path, Path, int | None], Iterator[Path]]] = {
    "cvbench": _cvbench,
    "whatsup": _whatsup,
    "blink": _blink,
    "clevr": _clevr,
    "clevr_count": _clevr_count,
    "superclevr": _superclevr,
}
"""What can be imported ▸ how."""
