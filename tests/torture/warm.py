"""Start the command lines in forks of this process, which has imported what they need: seconds instead of a minute."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import psutil

from tests.helpers import warm_server
from tests.torture.clock import jump


class Launched:
    """A command that runs in a process of its own, in the folder `folder`, with its output in a log file.

    Args:
        words: the command line.
        folder: the working folder.
        log: where its output goes.
        clock: seed of the jumps of its clock; None for the true time.
        fresh: start the console script as a user does, not a fork of this process.
    """

    def __init__(
        self, words: Sequence[str], folder: Path, log: Path, clock: int | None = None, fresh: bool = False
    ) -> None:
        self.log = log
        self._status: int | None = None
        if fresh:
            program = str(Path(sys.executable).with_name(words[0]))
            with log.open("wb") as file:
                self.pid = subprocess.Popen(
                    [program, *words[1:]], cwd=folder, stdout=file, stderr=file, start_new_session=True
                ).pid
        else:
            self.pid = _forked(lambda: _console_script(words, folder, clock), log)
        self.process, self.work = psutil.Process(self.pid), 0.0

    def poll(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def wait(self, limit: float = 600.0) -> int:
        """Wait for the end; a command that does not end within the limit is killed and counts as hung."""
        until = time.monotonic() + limit
        while (status := self.poll()) is None:
            if time.monotonic() > until:
                self.kill()
                raise TimeoutError(f"{self.log} did not end within {limit:.0f} s")
            self.seconds_of_work()
            time.sleep(0.02)
        return status

    def kill(self) -> None:
        """SIGKILL the command's process, and nothing that it started."""
        if self.poll() is None:
            os.kill(self.pid, 9)
            self.wait()

    def seconds_of_work(self) -> float:
        """CPU time of the process and of what it started, so far: a measure of its progress on a busy machine."""
        total = 0.0
        with suppress(psutil.Error):
            for process in (self.process, *self.process.children(recursive=True)):
                with suppress(psutil.Error):
                    times = process.cpu_times()
                    total += times.user + times.system
        # a process that has ended no longer counts
        self.work = max(self.work, total)
        return self.work

    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")


class ForkedExecutor:
    """In place of submitit's: a recipe's workers are forks too. They keep no lock of the command that starts them."""

    def __init__(self, folder: Path, cluster: str) -> None:
        self.folder = Path(folder)

    def update_parameters(self, **_: Any) -> None:
        """Take what submitit takes."""

    def submit(self, function: Callable[[Any], object], spec: Any) -> "_ForkedJob":
        self.folder.mkdir(parents=True, exist_ok=True)

        def run() -> None:
            for link in Path("/proc/self/fd").iterdir():
                with suppress(OSError):
                    if str(link.readlink()).endswith("/.run/lock"):
                        os.close(int(link.name))
            function(spec)

        return _ForkedJob(_forked(run, self.folder / f"{spec.number}.log"))


class _ForkedJob:
    def __init__(self, pid: int) -> None:
        self.job_id, self.ended = str(pid), False

    def done(self) -> bool:
        self.ended = self.ended or os.waitpid(int(self.job_id), os.WNOHANG)[0] != 0
        return self.ended

    def stderr(self) -> str:
        return ""


def still_working_in(folder: Path) -> bool:
    """Whether a process, such as the worker of a run that was killed, works in a folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(folder):
                return True
    return False


def import_everything() -> None:
    """Import what the commands import, and let recipes start their workers as forks."""
    import submitit

    warm_server.import_everything()
    vars(submitit)["AutoExecutor"] = ForkedExecutor


def _forked(run: Callable[[], object], log: Path) -> int:
    """Run a function in a fork, in a session of its own; the fork's process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        run()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _console_script(words: Sequence[str], folder: Path, clock: int | None) -> None:
    os.chdir(folder)
    sys.argv = list(words)
    if clock is not None:
        jump(clock)
    next(iter(entry_points(group="console_scripts", name=words[0]))).load()()
