"""Read files within a limit, write them atomically, put damaged ones aside, and find the folders that ship."""

import contextlib
import errno
import logging
import os
import stat
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TextIO

from lmms_steer.errors import UserError, reason, shorten

_FOLDERS_IN_A_CHECKOUT = {"recipe_files": "recipes"}
"""Folders whose name in a checkout differs from that in the installed package."""


def cache_dir() -> Path:
    """The folder of everything that lmms-steer creates: `$LMMS_STEER_CACHE`, else `~/.cache/lmms-steer`."""
    return Path(os.environ.get("LMMS_STEER_CACHE") or Path.home() / ".cache" / "lmms-steer")


def check_writable(folder: Path, what: str, remedy: str) -> None:
    """Check that files can be written to a folder. Nothing stays in it.

    Args:
        folder: need not exist.
        what: what the folder is, for the message ("the output folder").
        remedy: what the user can do, for the message.

    Raises:
        UserError: where something other than a folder is in the way, or the folder is not writable.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UserError(f"{what} {str(folder)!r} cannot be created: {str(existing)!r} is not a folder; {remedy}")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"{what} {str(folder)!r} cannot be written to: no permission for {str(existing)!r}; {remedy}")
    try:
        # permissions do not tell of a file system that takes no files
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise UserError(f"{what} {str(folder)!r} cannot be written to: {error.strerror}; {remedy}") from error


def is_regular_file(path: Path) -> bool:
    """Whether a path is that of an existing file; False for a path that no file can have, such as one too long."""
    return stat.S_ISREG(_mode(path))


def exists(path: Path) -> bool:
    """As `is_regular_file`, for anything."""
    return _mode(path) != 0


def is_folder(path: Path) -> bool:
    """As `is_regular_file`, for a folder."""
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def user_path(text: str) -> Path:
    """The path that a user typed, with `~` expanded.

    Raises:
        UserError: for the home folder of a user who does not exist.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise UserError(f"{text!r}: there is no home folder of that name") from error


def write_text(text: str, path: Path) -> None:
    """Write a text file, and the folders above it.

    Raises:
        UserError: if the file cannot be written.
    """
    with open_for_writing(path) as file:
        file.write(text)


def open_for_writing(path: Path) -> TextIO:
    """Open a text file for writing, in a folder that need not exist; `write_atomically` cannot write to `/dev/stdout`.

    Raises:
        UserError: if it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {_why_not_written(path, error)}") from error


def _why_not_written(path: Path, error: OSError) -> str:
    """The reason of an error, with the file that is where a folder would be: the system's own does not name it."""
    existing = next((parent for parent in path.absolute().parents if exists(parent)), None)
    if existing is not None and not existing.is_dir():
        return f"{str(existing)!r} is not a folder"
    return reason(error)


def read_limited(path: Path, limit: int) -> bytes:
    """Read a regular file of a limited size.

    A pipe would block for as long as nobody writes to it, and a device such as `/dev/zero` has no end.

    Args:
        path: the file; a symbolic link is followed.
        limit: the largest size in bytes.

    Raises:
        OSError: for a file that cannot be opened, is larger, or is a folder, a pipe or a device.
    """
    # O_NONBLOCK: opening a pipe that nobody writes to would block as well
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "a pipe or a device, not a regular file")
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(handle)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit >> 20} MiB")
    return data


def write_atomically(path: Path, data: bytes) -> Path:
    """Write a file so that it is either complete or not there: into a temporary file, which is then renamed.

    Args:
        path: of the file; missing folders are created.
        data: its content.

    Returns:
        The path.

    Raises:
        UserError: where the disk is full or the folder is not writable.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        raise UserError(f"cannot write {str(path)!r}: {_why_not_written(path, error)}") from error
    return path


def put_aside(path: Path, why: BaseException | str) -> None:
    """Rename a damaged file to `NAME.damaged`, so that it can be made again, and warn in one line.

    Does nothing where the file is gone: another process was faster.

    Args:
        path: of the file.
        why: how the damage showed.
    """
    target, number = path.with_name(f"{path.name}.damaged"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.damaged-{number}")
    try:
        path.rename(target)
    except FileNotFoundError:
        return
    detail = why if isinstance(why, str) else reason(why)
    logging.getLogger(__name__).warning("%r is damaged (%s): put aside as %r", str(path), shorten(detail), target.name)


def shipped_folder(name: str) -> Path:
    """The folder `lmms_steer.NAME` that ships with the package (tasks, recipe_files, vector_cache).

    Only an installed package holds these folders. In the folder of a checkout, Python imports the checkout's package
    even where another is installed; there they are next to the package.
    """
    try:
        return Path(str(files(f"lmms_steer.{name}")))
    except ModuleNotFoundError:
        return Path(__file__).parents[2] / _FOLDERS_IN_A_CHECKOUT.get(name, name)
