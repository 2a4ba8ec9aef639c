"""Commands run inside a worker's process: output, status, and the reason of a failure."""

import os
import sys
from pathlib import Path

import pytest

from lmms_steer._util.logging import LOGGER, print_notes
from lmms_steer.recipes import in_process


def test_a_command_leaves_its_log_and_status_and_restores_the_process(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log, before = tmp_path / "log", (sys.argv, dict(os.environ))
    # pytest's own capture puts objects in the place of the process's output; a worker has none
    with capfd.disabled():
        status = in_process.run_in_process(("lmms-steer", "concepts", "show", "spatail"), log)
    assert status == 2 and in_process.failure_reason(log).startswith("unknown concept 'spatail'")
    with capfd.disabled():
        status = in_process.run_in_process(("lmms-steer", "concepts", "list"), log)
    assert status == 0 and "spatial" in log.read_text()
    assert (sys.argv, dict(os.environ)) == before
    log.write_text("loading\n\x1b[31mtorch.OutOfMemoryError: no room\x1b[0m\n")
    assert in_process.failure_reason(log) == "torch.OutOfMemoryError: no room"


def test_the_reason_of_a_retried_failure_is_its_cause(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("pyarrow.lib.ArrowInvalid: no footer\nValueError: x\ntenacity.RetryError: RetryError[<Future>]\n")
    assert in_process.failure_reason(log) == "ValueError: x"


def test_notes_and_warnings_are_not_the_reason_of_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_notes()
    LOGGER.info("out of memory with 16 questions at once, going on with 8")
    LOGGER.warning("vector 'v' was made from another model")
    log = tmp_path / "log"
    log.write_text("KeyError: 'a'\n" + capsys.readouterr().err)
    assert in_process.failure_reason(log) == "KeyError: 'a'"
