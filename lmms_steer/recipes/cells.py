"""Cells, the units of work of a recipe, and the marks that say whether a cell is done.

A cell is one command line with the cells that it waits for and the files that it writes. Its mark, `cells/NAME.json`,
holds the hashes of its command, its inputs and its output. A cell is done while all of them are unchanged.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import count, dropwhile, pairwise, takewhile
from pathlib import Path
from typing import Any

from lmms_steer._util.io import write_atomically
from lmms_steer.comparison.runs import newest_evaluation, read_results
from lmms_steer.comparison.samples import read_samples
from lmms_steer.data.availability import copies_read
from lmms_steer.data.benchmarks import official_rows
from lmms_steer.data.source import MANIFEST, data_dir
from lmms_steer.errors import UserError
from lmms_steer.extraction.sae_endpoint import configured_endpoint
from lmms_steer.extraction.sae_verdicts import UNCHECKED
from lmms_steer.recipes.extensions import extension_files
from lmms_steer.vectors import store

WAITABLE_KINDS = ("extract", "search", "evaluate", "compare")
"""Kinds of cells that a recipe's own commands may wait for."""
HASHED_WHOLE = 2**28
"""Bytes up to which a file's content is hashed. Larger files, a checkpoint's weights, count by size and time: reading
them takes minutes."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One command of a recipe.

    Attributes:
        name: `KIND/MODEL/…`, which is also the path of its log and its mark.
        kind: extract, search, evaluate, compare, command or report.
        command: the words of the command line.
        needs: names of the cells that must be done before.
        reads: files and folders whose content the command depends on and that no cell makes.
        makes: files and folders that the command must write.
        folder: a folder that holds nothing but this cell's output; None where there is no such folder.
        loads: checkpoint and dtype of the model that the command loads; None where its memory is unknown.
        answers: number of answers to compute (questions times settings); None where it is unknown.
        show: whether the command's output is printed at the end of the run.
        vectors: names of vectors in a store that the command depends on. Those that are in none yet are extracted on
            first use.
        uses: of the files that the needed cells make, those that the command reads; empty for all of them.
        may_make: files that the command may write. One that was written and is then changed or gone makes it run again.
    """

    name: str
    kind: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    folder: str | None = None
    loads: tuple[str, str] | None = None
    answers: int | None = None
    show: bool = False
    vectors: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    may_make: tuple[str, ...] = ()

    @property
    def output_sha256(self) -> str:
        """Hash of what the command has written."""
        return content_digest([*self.makes, *(path for path in self.may_make if Path(path).exists())])

    def __str__(self) -> str:
        return shlex.join(self.command)

    def as_dict(self) -> dict[str, Any]:
        """The cell as JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Cell":
        """The cell from JSON, where tuples are lists."""
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Mark:
    """What is known of a cell's last run.

    Attributes:
        command: the command line.
        state: running, failed or done; "" for a cell that never ran.
        fingerprint: hash of the command and of everything that it depends on.
        output_sha256: hash of what a finished command wrote; its key in the file is `left`.
        why: one line on why the cell failed.
        seconds: duration of the run.
        version: version of this package that ran the cell.
    """

    command: str = ""
    state: str = ""
    fingerprint: str = ""
    output_sha256: str | None = None
    why: str | None = None
    seconds: float | None = None
    version: str | None = None


_MARK_KEYS = {field.name: "left" if field.name == "output_sha256" else field.name for field in fields(Mark)}
"""Field of a mark ▸ its key in the file."""


class Marks:
    """The logs and marks of a recipe's cells: `cells/NAME.log` and `cells/NAME.json`.

    Args:
        root: the recipe's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root / "cells"

    def log(self, cell: Cell) -> Path:
        """Path of a cell's log."""
        return self.root / f"{cell.name}.log"

    def read(self, name: str) -> Mark:
        """The mark of a cell; an empty one where there is none that can be read."""
        try:
            data: Any = json.loads(self._path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return Mark()
        if not isinstance(data, dict):
            return Mark()
        return Mark(**{name: data[key] for name, key in _MARK_KEYS.items() if key in data})

    def write(self, cell: Cell, mark: Mark) -> None:
        """Write a cell's mark; fields that are None are left out."""
        path = self._path(cell.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        data = {_MARK_KEYS[name]: value for name, value in asdict(mark).items() if value is not None}
        write_atomically(path, json.dumps(data, indent=1).encode())

    def _path(self, name: str) -> Path:
        return self.root / f"{name}.json"

    def fingerprint(self, cell: Cell) -> str:
        """Hash of a cell's command, of what it reads, and of what the cells that it needs have written."""
        outputs: dict[str, str | None] = {path: content_digest([path]) for path in cell.uses}
        outputs = outputs or {name: self.read(name).output_sha256 for name in cell.needs}
        reads = {path: content_digest([path]) for path in cell.reads}
        # a store may be in another place on another machine
        vectors = {f"vector {name}": content_digest(map(str, vector_file(name))) for name in cell.vectors}
        code = {name: content_digest(files) for name, files in extension_files(cell.command, cell.reads).items()}
        inputs = {**reads, **_data_digests(cell), **vectors, **code}
        return _sha256(json.dumps([cell.command, outputs, inputs], sort_keys=True))

    def done(self, cell: Cell) -> bool:
        """Whether the cell finished with this command and these inputs, its output is unchanged, and a judge that is
        there now was there to check its SAE features.
        """
        mark = self.read(cell.name)
        return (
            mark.state == "done"
            and mark.fingerprint == self.fingerprint(cell)
            and mark.output_sha256 == cell.output_sha256
            and not self._can_be_checked(cell)
        )

    def warnings(self, cell: Cell) -> list[str]:
        """The warnings in the log of an extraction, without their prefix; none of another cell, or without a log."""
        if cell.kind != "extract":
            return []
        try:
            lines = self.log(cell).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        found = (re.match(r"(?:lmms-steer )?WARNING: (.*)", line) for line in lines)
        return [match[1] for match in found if match]

    def _can_be_checked(self, cell: Cell) -> bool:
        """Whether a judge is configured, and an extraction has left SAE features unchecked."""
        return any(UNCHECKED in line for line in self.warnings(cell)) and configured_endpoint() is not None

    def why_again(self, cell: Cell) -> str | None:
        """Why a cell that was started before is not done; None for a new one, or where its inputs have changed."""
        mark = self.read(cell.name)
        if mark.state == "running":
            return f"it was interrupted{self._replaced_note(cell)}"
        if mark.state == "done" and mark.output_sha256 != cell.output_sha256:
            # killed after the old output was put aside, before the new mark was written
            gone = cell.folder is not None and not Path(cell.folder).exists()
            if gone or mark.command == str(cell):
                return f"its output is damaged or was changed{self._replaced_note(cell) if gone else ''}"
        if mark.state == "done" and self._can_be_checked(cell):
            return "its SAE features are unchecked, and there is a judge now"
        return "its mark is damaged" if not mark.state and self._path(cell.name).exists() else None

    def _replaced_note(self, cell: Cell) -> str:
        """Where the output is that the interrupted run, or one before it, has put aside; "" where there is none."""
        place = _places_aside(cell, self.root.parent / "replaced")
        found = list(takewhile(Path.exists, place))
        return f"; the output before it is in {found[-1]}" if found else ""

    def prepare(self, cell: Cell, fingerprint: str) -> Path | None:
        """Prepare a cell's folder and mark the cell as running.

        An interrupted search keeps its folder and resumes; so does a finished one of which only the files that it had
        to write were damaged or changed, and they alone are moved. Every other cell starts with an empty folder. Only
        the output of a run that did not finish is deleted; finished output and unknown files are moved to `replaced/`.

        Returns:
            where they were moved; None where nothing was.
        """
        mark, folder = self.read(cell.name), Path(cell.folder or "")
        moved = None
        if cell.folder and folder.exists():
            same, finished = mark.fingerprint == fingerprint, mark.state not in ("running", "failed")
            files = [Path(path) for path in (*cell.makes, *cell.may_make)]
            if cell.kind == "search" and mark.state == "done" and same and all(f.parent == folder for f in files):
                there = [file for file in files if file.exists()]
                moved = _move_aside(folder, self.root.parent / "replaced", cell, there) if there else None
            elif finished or (cell.kind == "search" and not same):
                moved = _move_aside(folder, self.root.parent / "replaced", cell)
            elif cell.kind != "search":
                shutil.rmtree(folder)
        self.write(cell, Mark(str(cell), "running", fingerprint))
        return moved

    def put_back(self, cell: Cell, mark: Mark, moved: Path) -> bool:
        """Put finished output back that a failed run has moved without writing anything in its place.

        Args:
            cell: the cell.
            mark: its mark before that run.
            moved: where the output is.

        Returns:
            whether it was put back.
        """
        folder = Path(cell.folder or "")
        if any(path.is_file() for path in folder.rglob("*")):
            return False
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(moved, folder)  # noqa: PTH104  a folder, in one step
        self.write(cell, mark)
        return True


def vector_file(name: str) -> list[Path]:
    """The file of a vector in a store, alone in a list; an empty list where no store has it."""
    try:
        return [store.find(name, None).path]
    except UserError:
        return []


def missing_output(cell: Cell) -> str | None:
    """One line on what a command that has ended should have written and did not; None where nothing is missing."""
    for path in map(Path, cell.makes):
        if not path.exists():
            return f"it did not write {path}"
    if cell.kind != "evaluate":
        return None
    try:
        results = read_results(newest_evaluation(Path(cell.makes[0])))
        for task in results.evaluation.samples:
            read_samples(results, task)
    except UserError as error:
        return str(error)
    missing = sorted(results.content.get("n-samples", {}).keys() - results.evaluation.samples.keys())
    if missing:
        return f"it wrote no samples of {', '.join(missing)}"
    return None if results.evaluation.samples else "it wrote no samples"


def content_digest(paths: Iterable[str]) -> str:
    """Hash of the content of files and folders; files above `HASHED_WHOLE` bytes count by size and time."""
    entries: list[list[object]] = []
    for path in map(Path, paths):
        below = path.rglob("*") if path.is_dir() else [path]
        # importing a task's utils.py leaves __pycache__ in its folder
        files = sorted(p for p in below if path == p or (p.is_file() and "__pycache__" not in p.parts))
        for file in files:
            name = str(file.relative_to(path)) if file != path else ""
            if not file.is_file():
                entries.append([str(path), None])
            elif file.stat().st_size > HASHED_WHOLE:
                entries.append([name, file.stat().st_size, file.stat().st_mtime_ns])
            else:
                entries.append([name, hashlib.sha256(file.read_bytes()).hexdigest()])
    return _sha256(json.dumps(entries))


def _data_digests(cell: Cell) -> dict[str, str]:
    """Hashes of the manifests of the local copies that a cell's tasks read, for cells that ask questions."""
    root = data_dir()
    if root is None or not {"--tasks", "--task"} & set(cell.command):
        return {}
    there = tuple(path for name in official_rows() if (path := root / name / MANIFEST).is_file())
    options = dict(pairwise(cell.command))
    tasks = options.get("--tasks") or options.get("--task", "")
    read = _copies_read(tasks, there, options.get("--include_path"))
    # the same copies may be reached by another path on another day
    return {f"data {path.relative_to(root)}": content_digest([str(path)]) for path in read}


@cache
def _copies_read(tasks: str, manifests: tuple[Path, ...], include_path: str | None) -> list[Path]:
    return sorted({path for task in tasks.split(",") for path in copies_read(task, manifests, include_path)})


def _places_aside(cell: Cell, where: Path) -> Iterator[Path]:
    """The names that a cell's output gets where it is put aside, in turn."""
    return (where / f"{cell.name.replace('/', '-')}-{number}" for number in count(1))


def _move_aside(folder: Path, where: Path, cell: Cell, files: Sequence[Path] = ()) -> Path:
    """Move a cell's folder, or only some files in it; returns where they are."""
    target = next(dropwhile(Path.exists, _places_aside(cell, where)))
    where.mkdir(parents=True, exist_ok=True)
    if not files:
        os.rename(folder, target)  # noqa: PTH104  a folder, in one step
        return target
    target.mkdir()
    for file in files:
        file.rename(target / file.name)
    return target


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
