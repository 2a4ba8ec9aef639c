"""Read a whole board: check the entries that changed since the last time, in several processes."""

import hashlib
import inspect
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from lmms_steer._util.io import cache_dir, write_atomically
from lmms_steer._util.json import parse_json
from lmms_steer._util.progress import progress_bar
from lmms_steer.board.case import BASELINE, Case, read_case
from lmms_steer.board.checks import checks
from lmms_steer.board.entry import ENTRIES, SPEC, Entry, entry_folders, read_entry
from lmms_steer.board.row import BoardRow, judged, make_row, unreadable
from lmms_steer.board.rules import Rules, read_rules
from lmms_steer.comparison.systems import BLANK_SUFFIX
from lmms_steer.errors import UserError
from lmms_steer.harness.task_files import tasks_dir

_CHUNK = 20
"""Entries that a process checks before it takes others."""
_Hashes = Mapping[str, str]


@dataclass(frozen=True)
class Board:
    """A board as it was read.

    Attributes:
        rules: its rules.
        rows: of all entries that can be read, refused ones too.
        unreadable: place ▸ why an entry cannot be read.
        checked: the number of entries that were not in the cache; those that cannot be read never are.
        unchanged: the number of entries that were.
    """

    rules: Rules
    rows: tuple[BoardRow, ...]
    unreadable: Mapping[str, str]
    checked: int
    unchanged: int

    @property
    def shown(self) -> list[BoardRow]:
        """The rows that no check refuses."""
        return [row for row in self.rows if not row.refused]

    def refusals(self) -> Iterator[tuple[str, str]]:
        """Yield (place, reason) of each entry that is left off."""
        yield from self.unreadable.items()
        for row in self.rows:
            if row.refused:
                yield row.place, "; ".join(f"{name}: {row.outcomes[name][1]}" for name in row.refused)


@dataclass(frozen=True)
class _Read:
    """An entry whose files were hashed."""

    folder: Path
    entry: Entry
    hashes: _Hashes
    key: str


def read_board(board: Path, processes: int | None = None, use_cache: bool = True) -> Board:
    """Read and check a board.

    Args:
        board: its folder.
        processes: how many to use; default: the number of cores.
        use_cache: whether entries that did not change since they were checked are taken from the cache.

    Raises:
        UserError: for a folder that is no board, or wrong rules.
    """
    rules = read_rules(board)
    bad: dict[str, str] = {}
    found = list(_hashed(board, bad))
    beside: dict[tuple[str, str], list[_Read]] = {}
    for one in found:
        # a spec makes an entry no baseline; which of the others are is in their results
        if SPEC not in one.hashes:
            beside.setdefault((one.entry.model, one.entry.task), []).append(one)
    code = _code_version()
    keys = {one.folder: _key(code, one, beside.get((one.entry.model, one.entry.task), ())) for one in found}
    path = cache_dir() / "leaderboards" / f"{hashlib.sha256(str(board.resolve()).encode()).hexdigest()[:16]}.json"
    cached = _read_cache(path) if use_cache else {}
    rows = {one.folder: cached[keys[one.folder]] for one in found if keys[one.folder] in cached}
    todo = [one for one in found if one.folder not in rows]
    chunks = [
        [(one, tuple(beside.get((one.entry.model, one.entry.task), ()))) for one in todo[start : start + _CHUNK]]
        for start in range(0, len(todo), _CHUNK)
    ]
    for row, folder in _checked(chunks, processes):
        if isinstance(row, str):
            bad[folder.relative_to(board / ENTRIES).as_posix()] = row
        else:
            rows[folder] = row
    if use_cache and todo:
        write_atomically(path, json.dumps({keys[folder]: row.to_json() for folder, row in rows.items()}).encode())
    ordered = [rows[one.folder] for one in found if one.folder in rows]
    return Board(rules, tuple(judged(ordered, rules)), dict(sorted(bad.items())), len(todo), len(found) - len(todo))


def _hashed(board: Path, bad: dict[str, str]) -> Iterator[_Read]:
    """Yield the entries whose `entry.json` can be read; the others go into `bad`."""
    names: dict[str, str] = {}
    for folder in entry_folders(board):
        place = folder.relative_to(board / ENTRIES).as_posix()
        try:
            entry, hashes = read_entry(folder, board)
        except (UserError, OSError) as error:
            bad[place] = unreadable(error)
            continue
        name = "\0".join((entry.model, entry.task, entry.system)).casefold()
        if name in names:
            bad[place] = f"it has the name of {names[name]}, but for capital letters"
            continue
        names[name] = place
        content = json.dumps([entry.to_json().decode(), hashes], sort_keys=True)
        yield _Read(folder, entry, hashes, hashlib.sha256(content.encode()).hexdigest())


def _checked(chunks: Sequence[Any], processes: int | None) -> Iterator[tuple[BoardRow | str, Path]]:
    workers = min(processes or os.cpu_count() or 1, len(chunks))
    if workers < 2:
        for chunk in progress_bar(chunks, desc="checking", unit="x20 entries"):
            yield from _check_chunk(chunk)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for rows in progress_bar(
            pool.map(_check_chunk, chunks), desc="checking", unit="x20 entries", total=len(chunks)
        ):
            yield from rows


def _check_chunk(chunk: Iterable[tuple[_Read, tuple[_Read, ...]]]) -> list[tuple[BoardRow | str, Path]]:
    return [(_check_one(one, beside), one.folder) for one, beside in chunk]


def _check_one(one: _Read, beside: Sequence[_Read]) -> BoardRow | str:
    """The row of an entry, or why it cannot be read. Whatever a file holds, the other entries are checked."""
    try:
        case = read_case(one.folder, one.entry, one.hashes)
        if case.role != BASELINE:
            baseline, problem = _baseline_of(case, beside)
            case = replace(case, baseline=baseline, problem=problem)
        return make_row(case)
    except (UserError, OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, MemoryError) as error:
        return unreadable(error)


def _baseline_of(case: Case, beside: Sequence[_Read]) -> tuple[Case | None, str]:
    """The unsteered entry of the same model and task, with the same kind of images; or why there is none."""
    wanted, found = case.entry.baseline, []
    for other in beside:
        base = _case_of(other.folder, other.key, _Keyed(other))
        if base is not None and base.role == BASELINE and base.blank == case.blank:
            found.append(base)
    images = "with blank images " if case.blank else ""
    named = [base for base in found if base.entry.system == wanted]
    if wanted and not case.blank:
        return (named[0], "") if named else (None, f"its baseline {wanted!r} is not beside it")
    # as in a comparison; so nobody's further entry takes the others' baseline away
    found = [base for base in found if base.entry.system in (BASELINE, f"{BASELINE}{BLANK_SUFFIX}")] or found
    if len(found) > 1:
        return None, f"several unsteered systems {images}are beside it: add --baseline NAME says which"
    return (found[0], "") if found else (None, f"no unsteered system {images}is beside it")


class _Keyed:
    """An entry as an argument of a cached function that goes by the entry's key alone."""

    def __init__(self, read: _Read) -> None:
        self.read = read

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=8)
def _case_of(folder: Path, key: str, keyed: _Keyed) -> Case | None:  # noqa: ARG001
    """An entry that others are compared with; None for one that cannot be read."""
    try:
        return read_case(folder, keyed.read.entry, keyed.read.hashes)
    except UserError:
        return None


def _key(code: str, one: _Read, beside: Sequence[_Read]) -> str:
    return hashlib.sha256(json.dumps([code, one.key, sorted(other.key for other in beside)]).encode()).hexdigest()


def _read_cache(path: Path) -> dict[str, BoardRow]:
    try:
        return {key: BoardRow.from_json(row) for key, row in parse_json(path.read_bytes()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _code_version() -> str:
    """A hash of all that checks entries, so that another version, or another set of checks, checks them again."""
    digest = hashlib.sha256(version("lmms-eval").encode())
    paths = [*Path(str(files("lmms_steer"))).rglob("*.py"), *Path(tasks_dir()).rglob("*.py")]
    for name in sorted(checks.names()):
        digest.update(name.encode())
        if source := getattr(inspect.getmodule(checks.get(name).run), "__file__", None):
            paths.append(Path(source))
    for path in sorted(set(paths)):
        digest.update(path.read_bytes())
    return digest.hexdigest()
