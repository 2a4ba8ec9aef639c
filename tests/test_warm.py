"""The forks in which tests run command lines end as fresh processes do."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import warm

CODES = {
    "status": "import sys; sys.exit(3)",
    "message": "import sys; sys.exit('wrong')",
    "exception": "raise ValueError('wrong')",
    "interrupt": "raise KeyboardInterrupt",
    "signal": f"import os; os.kill(os.getpid(), {signal.SIGTERM:d})",
    "exit": "import atexit, threading; atexit.register(print, 'at exit');"
    " threading.Timer(0.05, print, ['from a thread']).start(); print('main')",
    "context": "import os, sys; print(os.environ.get('ONE'), os.environ.get('TWO'), os.getcwd(), os.read(0, 9),"
    " __name__, sys.argv, sys.path[:2], 'lmms_eval.__main__' in sys.modules)",
}


@pytest.mark.slow
@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_a_fork_ends_as_a_fresh_process_does(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", "unseen")
    environment = {key: value for key, value in os.environ.items() if key != "ONE"} | {"TWO": "2"}
    environment["PYTHONPATH"] = str(tmp_path)
    line = [sys.executable, "-c", code, "argument"]
    fresh = subprocess.run(
        line, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    forked = warm.run("python", *line[1:], cwd=tmp_path, env=environment)
    assert (forked.returncode, forked.stdout) == (fresh.returncode, fresh.stdout)
    assert forked.stderr.splitlines()[-1:] == fresh.stderr.splitlines()[-1:]
