"""An entry of a board: one system on one task, as files in a folder of its own.

    entries/MODEL/TASK/SYSTEM/
        entry.json         what this entry is, who added it and when, and the sha256 of each file
        results.json       the harness's results file, without options that may hold keys of services
        samples.parquet    answers and scores (`samples_file`)
        spec.yaml          the steering spec, if the system is steered
        vectors/N.safetensors    the vector of the spec's intervention N, unless entry.json gives its address
        study/             plan.json, cells.parquet and result.json of the search that chose the spec

There is no index: the folder is the list of entries, so additions of different people never touch the same file.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lmms_steer._util.io import read_limited
from lmms_steer._util.json import parse_json
from lmms_steer.comparison.systems import split_prompted
from lmms_steer.errors import UserError, reason, shorten

FORMAT = 1
"""The version of the format that is written. All versions up to it are read."""
ENTRIES = "entries"
ENTRY, RESULTS, SAMPLES, SPEC, STUDY = "entry.json", "results.json", "samples.parquet", "spec.yaml", "study"
MAX_NAME = 120
"""Most characters of a model's, task's or system's name."""
MAX_TEXT = 2000
"""Most characters of any other text of an entry."""
_MIB = 1 << 20
_LIMITS = {
    ENTRY: _MIB // 4,
    RESULTS: 8 * _MIB,
    SAMPLES: 16 * _MIB,
    SPEC: 2 * _MIB,
    "study/plan.json": _MIB,
    "study/cells.parquet": 8 * _MIB,
    "study/result.json": 4 * _MIB,
}
"""File ▸ its largest size in bytes. An entry holds no other files, but for vectors."""
_VECTOR_FILE = re.compile(r"vectors/\d{1,3}\.safetensors")
_MAX_VECTOR = 64 * _MIB
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class EntryVector:
    """A vector of an entry's spec.

    Attributes:
        name: `backbone/concept/method`.
        sha256: of its content (`SteeringVectors.sha256`).
        file: its file in the entry; "" if it is elsewhere.
        address: where else it is: `OWNER/REPO/NAME` on the Hub; "" if nobody said.
    """

    name: str
    sha256: str
    file: str = ""
    address: str = ""


@dataclass(frozen=True)
class Entry:
    """The content of `entry.json`.

    Attributes:
        model: the model's name.
        task: the task that the questions belong to.
        system: the system's name; with model and task it identifies the entry.
        harness: lmms-eval or lm-eval.
        harness_task: the task as the harness calls it, `TASK_prompted` for a system that is another prompt.
        metric: the name of the score.
        images_source: the samples' field that images are recognised by.
        baseline: the system to compare with; "" for the only unsteered one beside it.
        by: who added it.
        added: when, as YYYY-MM-DD.
        about: what else a reader should know.
        vectors: of the spec's interventions, in their order.
        versions: package ▸ version, where the run recorded them.
        files: file ▸ sha256 of each file but `entry.json`.
    """

    model: str
    task: str
    system: str
    harness: str
    harness_task: str
    metric: str
    images_source: str = "images"
    baseline: str = ""
    by: str = ""
    added: str = ""
    about: str = ""
    vectors: tuple[EntryVector, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The entry's folder below `entries/`."""
        return "/".join(map(slug, (self.model, self.task, self.system)))

    def to_json(self) -> bytes:
        """The content of the file."""
        content = {"format": FORMAT, **asdict(self)}
        return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def slug(name: str) -> str:
    """A folder's name for a name: other characters than letters, digits and `._+-` are replaced by `_`."""
    text = re.sub(r"[^A-Za-z0-9._+-]+", "_", name)
    if len(text) > 80:
        text = f"{text[:64]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return f"_{text}" if text.startswith(".") or not text else text


def entry_folders(board: Path) -> Iterator[Path]:
    """Yield the folders of a board's entries: those that hold `entry.json`, in order.

    Symbolic links are not followed. Folders at a wrong depth are yielded too, so that they are reported.

    Raises:
        UserError: where the folder of all entries is a symbolic link.
    """
    if (board / ENTRIES).is_symlink():
        raise UserError(f"{str(board / ENTRIES)!r} is a symbolic link")
    for folder, names, files in os.walk(board / ENTRIES):
        names.sort()
        links = [name for name in names if (Path(folder) / name).is_symlink()]
        if ENTRY in files:
            names.clear()
            yield Path(folder)
        else:
            yield from (Path(folder) / name for name in links)


def read_entry(folder: Path, board: Path) -> tuple[Entry, dict[str, str]]:
    """Read an entry and hash its files.

    Args:
        folder: the entry's.
        board: the board's.

    Returns:
        The entry, and file ▸ sha256 of each file that is there but `entry.json`.

    Raises:
        UserError: for an entry that is not in the folder of its name, of a newer format, with other files than an
            entry has, with a symbolic link, or that cannot be read.
    """
    sizes = dict(_files(folder))
    try:
        content = parse_json(read_limited(folder / ENTRY, _LIMITS[ENTRY]))
        entry = _parsed(content)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{ENTRY}: {reason(error)}") from error
    here = folder.relative_to(board / ENTRIES).as_posix()
    if here != entry.place:
        raise UserError(f"it is the entry {entry.place}, which does not belong here")
    for name in (RESULTS, SAMPLES):
        if name not in sizes:
            raise UserError(f"there is no {name}")
    return entry, {name: _sha256(folder / name, name) for name in sorted(sizes) if name != ENTRY}


def limit_of(name: str) -> int | None:
    """The largest size in bytes of a file of an entry; None for a file that no entry has."""
    return _MAX_VECTOR if _VECTOR_FILE.fullmatch(name) else _LIMITS.get(name)


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield name and size of each file of an entry."""
    if folder.is_symlink():
        raise UserError("it is a symbolic link")
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root) / name
            inside = path.relative_to(folder).as_posix()
            if path.is_symlink():
                raise UserError(f"{shorten(inside)} is a symbolic link")
            if name in folders and inside not in ("vectors", STUDY):
                raise UserError(f"unexpected folder {shorten(inside)}")
            if name in files:
                limit, size = limit_of(inside), path.stat().st_size
                if limit is None:
                    raise UserError(f"unexpected file {shorten(inside)}")
                if size > limit:
                    raise UserError(f"{inside} is larger than {limit / _MIB:g} MiB")
                yield inside, size


def _sha256(path: Path, name: str) -> str:
    try:
        return hashlib.sha256(read_limited(path, limit_of(name) or 0)).hexdigest()
    except OSError as error:
        raise UserError(f"{name}: {reason(error)}") from error


def _parsed(content: Any) -> Entry:
    """Build an entry from the content of any version's file.

    Raises:
        ValueError, TypeError: for content that is no entry.
    """
    if not isinstance(content, dict):
        raise ValueError("it is not an object")
    version = content.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"format is {shorten(repr(version))}, not a whole number")
    if version > FORMAT:
        raise ValueError(f"it has format {version}, this lmms-steer reads formats up to {FORMAT}: install a newer one")
    vectors = content.get("vectors", [])
    if not isinstance(vectors, list) or not all(isinstance(one, dict) for one in vectors) or len(vectors) > 100:
        raise ValueError("vectors is not a list of objects")
    texts: dict[str, Any] = {name: _text(name, content.get(name, "")) for name in _TEXTS}
    for name in ("model", "task", "system", "harness_task"):
        if not 0 < len(texts[name]) <= MAX_NAME:
            raise ValueError(f"{name} has {len(texts[name])} characters, it may have 1 to {MAX_NAME}")
    if texts["task"] not in (texts["harness_task"], split_prompted(texts["harness_task"])[0]):
        raise ValueError(f"harness_task {shorten(texts['harness_task'])} is not {shorten(texts['task'])} or its prompt")
    versions, files = (_table(name, content.get(name, {})) for name in ("versions", "files"))
    return Entry(**texts, vectors=tuple(map(_vector, vectors)), versions=versions, files=files)


_TEXTS = (
    *("model", "task", "system", "harness", "harness_task", "metric", "images_source", "baseline", "by"),
    *("added", "about"),
)


def _vector(content: dict[str, Any]) -> EntryVector:
    name, sha256, file, address = (
        _text(f"vectors.{key}", content.get(key, "")) for key in ("name", "sha256", "file", "address")
    )
    if not _SHA256.fullmatch(sha256):
        raise ValueError(f"vectors.sha256 is {shorten(repr(sha256))}, not 64 hexadecimal digits")
    if file and not _VECTOR_FILE.fullmatch(file):
        raise ValueError(f"vectors.file is {shorten(repr(file))}, not vectors/N.safetensors")
    return EntryVector(name, sha256, file, address)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shorten(repr(value))}, not a text")
    if len(value) > MAX_TEXT:
        raise ValueError(f"{name} has {len(value)} characters, more than {MAX_TEXT}")
    if not value.isprintable():
        raise ValueError(f"{name} holds control characters: {shorten(repr(value))}")
    return value


def _table(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > 200:
        raise ValueError(f"{name} is not an object")
    return {_text(name, key): _text(f"{name}.{shorten(key)}", child) for key, child in value.items()}
