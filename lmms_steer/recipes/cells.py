"""A cell: one command line, what it waits for, and what it leaves.

How one sees that a cell is done: its mark, for its command and for the content of what it read and left.
"""

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lmms_steer._util.io import write_atomically
from lmms_steer.comparison.runs import newest_evaluation, read_results
from lmms_steer.comparison.samples import read_samples
from lmms_steer.data.source import data_dir
from lmms_steer.errors import UserError


@dataclass(frozen=True, slots=True)
class Cell:
    """One command.

    Attributes:
        name: `KIND/MODEL/…`; it is also where its log and its mark lie.
        kind: extract, search, evaluate, compare or command.
        command: the words of the command line.
        needs: cells that must be done before.
        reads: files and folders of others whose content it depends on.
        makes: files and folders that it must leave.
        folder: a folder of its own, with nobody else's files in it.
        loads: checkpoint and dtype of the multimodal model that it loads, where its memory can be told.
        answers: questions asked times settings, where that is known.
        show: whether what it prints is shown at the end.
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

    def __str__(self) -> str:
        return shlex.join(self.command)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Cell":
        """Of JSON, where tuples are lists."""
        words: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        return cls(**words)


class Marks:
    """What cells leave beside their logs: `cells/NAME.json`.

    Args:
        root: the recipe's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root / "cells"

    def log(self, cell: Cell) -> Path:
        return self.root / f"{cell.name}.log"

    def read(self, name: str) -> dict[str, Any]:
        """A cell's mark; empty where it has none that can be read."""
        try:
            found: dict[str, Any] = json.loads((self.root / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, cell: Cell, **said: Any) -> None:
        path = self.root / f"{cell.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"command": str(cell), **said}, indent=1).encode())

    def fingerprint(self, cell: Cell) -> str:
        """Of the command, of what it reads, and of what the cells before it left."""
        before = {name: self.read(name).get("left") for name in cell.needs}
        reads = {path: content_digest([path]) for path in (*cell.reads, *_data(cell))}
        return _sha256(json.dumps([cell.command, before, reads], sort_keys=True))

    def done(self, cell: Cell) -> bool:
        """Whether it ended well, for this command and these inputs, and what it left is still there."""
        mark = self.read(cell.name)
        return (
            mark.get("state") == "done"
            and mark["fingerprint"] == self.fingerprint(cell)
            and mark["left"] == content_digest(cell.makes)
        )

    def prepare(self, cell: Cell, fingerprint: str) -> None:
        """Before it runs: a search that was cut off goes on; anything else begins with an empty folder of its own.

        Only what a cell left that did not end well is removed; what nobody knows about, or was done, is put aside.
        """
        mark, folder = self.read(cell.name), Path(cell.folder or "")
        if cell.folder and folder.exists():
            same = mark.get("fingerprint") == fingerprint
            if mark.get("state") not in ("running", "failed") or (cell.kind == "search" and not same):
                _put_aside(folder, self.root.parent / "replaced", cell)
            elif cell.kind != "search":
                shutil.rmtree(folder)
        self.write(cell, state="running", fingerprint=fingerprint)


def missing_output(cell: Cell) -> str | None:
    """What a cell that ended did not leave, in one line."""
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
    lost = sorted(results.content.get("n-samples", {}).keys() - results.evaluation.samples.keys())
    if lost:
        return f"it wrote no samples of {', '.join(lost)}"
    return None if results.evaluation.samples else "it wrote no samples"


def content_digest(paths: Iterable[str]) -> str:
    """Of files' content; a checkpoint's weights count by size and time, their content takes minutes to read."""
    found: list[list[object]] = []
    for path in map(Path, paths):
        below = path.rglob("*") if path.is_dir() else [path]
        # a folder of tasks is imported from, which leaves these in it
        files = sorted(p for p in below if path == p or (p.is_file() and "__pycache__" not in p.parts))
        for file in files:
            name = str(file.relative_to(path)) if file != path else ""
            if not file.is_file():
                found.append([str(path), None])
            elif file.stat().st_size > 2**28:
                found.append([name, file.stat().st_size, file.stat().st_mtime_ns])
            else:
                found.append([name, hashlib.sha256(file.read_bytes()).hexdigest()])
    return _sha256(json.dumps(found))


def _data(cell: Cell) -> list[str]:
    """What says which local copies of benchmarks there are, for cells that ask questions."""
    root = data_dir()
    if root is None or cell.kind not in ("search", "evaluate"):
        return []
    return [str(path) for path in sorted(root.glob("**/manifest.json"))]


def _put_aside(folder: Path, where: Path, cell: Cell) -> None:
    number = 1
    while (target := where / f"{cell.name.replace('/', '-')}-{number}").exists():
        number += 1
    where.mkdir(parents=True, exist_ok=True)
    os.rename(folder, target)  # noqa: PTH104  a folder, in one step


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
