"""Folders that are made from others: complete or not there, made once, and made again when they do not fit."""

import errno
import logging
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from lmms_steer.errors import UserError
from lmms_steer.smol import made_folder as module
from lmms_steer.smol.made_folder import made_folder, problem_of

SOURCES = {"gguf_sha256": "1" * 64, "format": 1}


def write(folder: Path) -> None:
    (folder / "weights").write_bytes(b"weights")
    (folder / "weights").chmod(0o600)


def make(folder: Path, sources: dict[str, object] = SOURCES, megabytes: int = 1) -> Path:
    return made_folder(folder, sources, write, megabytes)


def test_what_is_there_and_whole_is_not_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make(tmp_path / "models" / "m")
    assert (folder / "weights").read_bytes() == b"weights" and (folder / "weights").stat().st_mode & 0o777 == 0o644
    inode = folder.stat().st_ino
    assert make(folder).stat().st_ino == inode and not caplog.records


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "weights").write_bytes(b"w"), "is damaged (the content of weights has changed)"),
        (lambda folder: (folder / "weights").unlink(), "is damaged (weights: No such file or directory)"),
        (lambda folder: (folder / module.MANIFEST).unlink(), "is damaged (made_from.json: No such file or directory)"),
        (lambda folder: (folder / module.MANIFEST).write_text("{"), "is damaged (made_from.json: Expecting property"),
        (lambda folder: (folder / module.MANIFEST).write_text("[]"), "is damaged (made_from.json: "),
    ],
)
def test_a_damaged_folder_is_made_again_with_one_warning(
    damage: object, problem: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make(tmp_path / "m")
    damage(folder)  # type: ignore[operator]
    assert (problem_of(folder, SOURCES) or "").startswith(problem)
    make(folder)
    (record,) = caplog.records
    assert problem in record.getMessage() and record.getMessage().endswith("it is made again")
    assert record.levelno == logging.WARNING and problem_of(folder, SOURCES) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [".m.lock", "m"]


def test_a_folder_of_other_sources_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make(tmp_path / "m")
    make(folder, {**SOURCES, "gguf_sha256": "2" * 64})
    assert "was made from another gguf sha256 (111111111111, not 222222222222): it is made again" in caplog.text


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), UserError("no"), KeyboardInterrupt()]
)
def test_nothing_half_written_remains(error: BaseException, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise error

    wanted = UserError if isinstance(error, OSError) else type(error)
    with pytest.raises(wanted) as raised:
        made_folder(tmp_path / "m", SOURCES, fail, 1)
    if isinstance(error, OSError):
        assert str(raised.value) == f"cannot make {str(tmp_path / 'm')!r}: No space left on device"
    assert [path.name for path in tmp_path.iterdir()] == [".m.lock"]


def test_a_failure_keeps_the_old_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "m")

    def fail(unfinished: Path) -> None:
        raise UserError("no package")

    with pytest.raises(UserError, match="no package"):
        made_folder(folder, {**SOURCES, "format": 2}, fail, 1)
    assert problem_of(folder, SOURCES) is None


def test_too_little_disk_space_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=30 << 20))
    with pytest.raises(UserError, match=r"it needs 400 MB of disk space, and 30 MB are free$"):
        make(tmp_path / "m", megabytes=400)


def test_processes_that_want_it_at_once_make_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # every thread finds nothing before the first of them begins
    barrier, local, made = threading.Barrier(3), threading.local(), []
    original = module.problem_of

    def problem(folder: Path, sources: dict[str, object]) -> str | None:
        found = original(folder, sources)
        if not hasattr(local, "asked"):
            local.asked = True
            barrier.wait()
        return found

    def count(folder: Path) -> None:
        made.append(folder)
        write(folder)

    monkeypatch.setattr(module, "problem_of", problem)
    threads = [threading.Thread(target=made_folder, args=(tmp_path / "m", SOURCES, count, 1)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and original(tmp_path / "m", SOURCES) is None
