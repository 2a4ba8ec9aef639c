"""Notes and warnings: printed by a command line, and silenceable by a program that imports the package."""

import logging
import subprocess
import sys

import pytest

from lmms_steer._util.logging import LOGGER, print_notes


def test_a_command_line_prints_notes_and_warnings_to_stderr_once(capsys: pytest.CaptureFixture[str]) -> None:
    print_notes()
    print_notes()
    logging.getLogger("lmms_steer.somewhere").info("made %d vectors", 3)
    LOGGER.warning("the vector is old")
    LOGGER.debug("details")
    printed = capsys.readouterr()
    assert printed.err == "lmms-steer note: made 3 vectors\nlmms-steer WARNING: the vector is old\n"
    assert printed.out == ""


def test_a_program_may_silence_them(capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    LOGGER.setLevel(logging.ERROR)
    LOGGER.warning("hidden")
    assert capsys.readouterr().err == "" and not caplog.records


def test_a_program_may_handle_them_itself(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="lmms_steer"):
        LOGGER.info("a note")
    assert [(record.name, record.message) for record in caplog.records] == [("lmms_steer", "a note")]


def test_an_import_installs_no_handler_and_the_command_line_does() -> None:
    code = "import lmms_steer, logging; print(logging.getLogger('lmms_steer').handlers, logging.root.handlers)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]
    code = (
        "import sys; from lmms_steer import cli\n"
        "from lmms_steer._util.logging import LOGGER\n"
        "from lmms_steer.harness import task_files\n"
        "task_files.our_tasks = lambda: LOGGER.warning('mind the gap') or []\n"
        "sys.argv = ['lmms-steer', 'tasks']; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "lmms-steer WARNING: mind the gap\n"
