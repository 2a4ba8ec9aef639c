"""Small disks and read-only folders by mounting, where this process may mount."""

import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

ROOMY = "256m"


@cache
def may_mount() -> bool:
    """Whether this process may mount a tmpfs and change it."""
    with TemporaryDirectory() as folder:
        try:
            mount(Path(folder), "1m")
        except (OSError, subprocess.CalledProcessError):
            return False
        unmount(Path(folder))
        return True


def mount(folder: Path, size: str) -> None:
    """Mount a tmpfs of a size (`40k`, `256m`) on a folder."""
    _run("mount", "-t", "tmpfs", "-o", f"size={size}", "lmms-steer-torture", str(folder))


def resize(folder: Path, size: str) -> None:
    _run("mount", "-o", f"remount,size={size}", str(folder))


def set_read_only(folder: Path, read_only: bool) -> None:
    _run("mount", "-o", f"remount,{'ro' if read_only else 'rw'}", str(folder))


def unmount(folder: Path) -> None:
    _run("umount", "--lazy", str(folder))


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
