"""A folder that is made from other files: complete or not there, made by one process at a time, checked when used."""

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from lmms_steer._util.hashing import file_sha256
from lmms_steer._util.io import cache_dir, read_limited, write_atomically
from lmms_steer.errors import UserError, reason

MANIFEST = "made_from.json"
"""The file that says what the folder was made from, and the SHA-256 of its other files."""
_MAX_MANIFEST = 1 << 20
log = logging.getLogger(__name__)


def checkpoint_folder(name: str) -> Path:
    """The folder of a checkpoint in the cache, which need not exist."""
    return cache_dir() / "models" / name


def made_folder(folder: Path, sources: Mapping[str, Any], make: Callable[[Path], None], megabytes: int) -> Path:
    """Return a folder that was made from these sources; make it where it is not there.

    One that is damaged, or was made from other sources, is made again, with a warning.

    Args:
        folder: of the result.
        sources: what determines the content, as JSON: hashes and versions.
        make: writes the content into an empty folder.
        megabytes: the free space that making it needs.

    Returns:
        `folder`.

    Raises:
        UserError: where it cannot be made; nothing half-written remains. Also whatever `make` raises.
    """
    from filelock import FileLock

    problem = problem_of(folder, sources)
    if problem is None:
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            problem = problem_of(folder, sources)  # another process may have made it by now
            if problem is None:
                return folder
            if folder.exists():
                log.warning("%r %s: it is made again", str(folder), problem)
            _make(folder, sources, make, megabytes)
    except OSError as error:
        raise UserError(f"cannot make {str(folder)!r}: {reason(error)}") from error
    return folder


def problem_of(folder: Path, sources: Mapping[str, Any]) -> str | None:
    """What is wrong with a made folder, in words that follow its name; None for nothing."""
    if not folder.exists():
        return "does not exist"
    try:
        manifest = json.loads(read_limited(folder / MANIFEST, _MAX_MANIFEST))
        made_from, files = dict(manifest["sources"]), dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"is damaged ({MANIFEST}: {reason(error)})"
    for key in sorted({*made_from, *sources}):
        found, wanted = made_from.get(key), sources.get(key)
        if found != wanted:
            return f"was made from another {key.replace('_', ' ')} ({_short(found)}, not {_short(wanted)})"
    for name, sha256 in files.items():
        try:
            stat = (folder / name).stat()
            found = _sha256(str(folder / name), stat.st_ino, stat.st_size, stat.st_mtime_ns)
        except OSError as error:
            return f"is damaged ({name}: {reason(error)})"
        if found != sha256:
            return f"is damaged (the content of {name} has changed)"
    return None


def _make(folder: Path, sources: Mapping[str, Any], make: Callable[[Path], None], megabytes: int) -> None:
    free = shutil.disk_usage(folder.parent).free >> 20
    if free < megabytes:
        raise UserError(f"cannot make {str(folder)!r}: it needs {megabytes} MB of disk space, and {free} MB are free")
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        unfinished.chmod(0o755)
        make(unfinished)
        files = {path.name: file_sha256(path) for path in sorted(unfinished.iterdir())}
        for name in files:
            (unfinished / name).chmod(0o644)  # safetensors writes files that only their owner can read
        content = json.dumps({"sources": dict(sources), "files": files}, indent=1) + "\n"
        write_atomically(unfinished / MANIFEST, content.encode())
        if folder.exists():
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
            folder.rename(old / folder.name)
            unfinished.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


@cache
def _sha256(path: str, inode: int, size: int, modified: int) -> str:  # noqa: ARG001  the key of the cache
    return file_sha256(Path(path))


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text
