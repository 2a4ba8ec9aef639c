"""`python -m tests.torture`, shortened: one fault for each command. `tests/search/test_resuming.py` kills searches."""

from pathlib import Path

import pytest

from tests.helpers import warm


@pytest.mark.slow
@pytest.mark.parametrize(("commands", "fault"), [("extract,evaluate", "cut file"), ("run", "kill")])
def test_what_was_done_is_kept_and_the_end_is_that_of_an_uninterrupted_run(
    tmp_path: Path, commands: str, fault: str
) -> None:
    options = ["--faults", "1", "--fresh", "0", "--jobs", "1", "--folder", str(tmp_path), "--commands", commands]
    options += ["--only", fault]
    done = warm.run("python", "-m", "tests.torture", *options, cwd=warm.ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(commands.split(','))} faults, 0 failed" in done.stdout
