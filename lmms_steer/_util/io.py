"""Files that are whole or not there.

Where the folders lie that ship beside the package: tasks, recipes, vectors.
"""

import contextlib
import os
import tempfile
from importlib.resources import files
from pathlib import Path

from lmms_steer.errors import UserError


def check_writable(folder: Path, what: str, remedy: str) -> None:
    """See that files can be written there; nothing is made yet.

    Args:
        folder: need not exist.
        what: the folder is, for the message.
        remedy: what else to say.

    Raises:
        UserError: where something else than a folder is in the way, or the folder is not writable.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"{what} {str(folder)!r} cannot be made, {str(there)!r} is no folder: {remedy}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{what} {str(folder)!r} cannot be written to, {str(there)!r} does not permit it: {remedy}")


def write_atomically(path: Path, data: bytes) -> Path:
    """Write beside the target and rename; nothing half-written is left behind.

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
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    return path


_IN_A_CHECKOUT = {"recipe_files": "recipes"}


def shipped_folder(name: str) -> Path:
    """`lmms_steer.NAME` of the installed package.

    In the folder of a checkout Python finds the checkout's package before an installed one, and only the installed one
    has these inside: there they lie beside it.
    """
    try:
        return Path(str(files(f"lmms_steer.{name}")))
    except ModuleNotFoundError:
        return Path(__file__).parents[2] / _IN_A_CHECKOUT.get(name, name)
