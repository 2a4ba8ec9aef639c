"""`python -m tests.torture`, shortened: a kill and a cut file for each command."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.documents import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("commands", ["extract,search,evaluate", "run"])
def test_what_was_done_is_kept_and_the_end_is_that_of_an_uninterrupted_run(tmp_path: Path, commands: str) -> None:
    options = ["--faults", "2", "--fresh", "0", "--jobs", "1", "--folder", str(tmp_path), "--commands", commands]
    words = [sys.executable, "-m", "tests.torture", *options]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{2 * len(commands.split(','))} faults, 0 failed" in done.stdout
