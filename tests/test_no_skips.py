"""A skipped test is a failure in CI."""

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers.documents import ROOT

TESTS = """
import pytest

def test_passes(): pass

@pytest.mark.skipif(True, reason="no browser here")
def test_marked(): pass

@pytest.fixture
def model(): pytest.skip("no model here")

def test_of_a_fixture(model): pass

@pytest.mark.xfail
def test_known(): assert False
"""


def test_skipped_tests_fail_with_their_reason_where_nothing_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "tests.helpers.no_skips", "-p", "no:cacheprovider"]
    words += ["--rootdir", str(tmp_path), str(tmp_path)]
    environment = {**os.environ, "LMMS_STEER_NO_SKIPS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "1 passed, 1 xfailed, 2 errors" in done.stdout, done.stdout + done.stderr
    assert "no browser here" in done.stdout and "no model here" in done.stdout
