"""Start command lines as forks of a process that has imported what they need: one second instead of twenty.

A command runs in a process of its own, with its own arguments, environment, folder and output. It differs from a fresh
one in what is imported before it begins; tests about imports start a fresh one.
"""

import atexit
import functools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

ROOT = Path(__file__).parents[2]
LIMIT = 1800.0
"""Seconds after which a command counts as hung."""
_ENVIRONMENT = dict(os.environ)
"""Without what a test sets: the first one that starts a command also starts the process for all others."""


class Started:
    """A command that runs, or has ended.

    Attributes:
        pid: its process.
        returncode: its status, negative for a signal; None while it runs.
    """

    def __init__(self, words: tuple[str, ...], pid: int, outputs: tuple[IO[bytes], IO[bytes]]) -> None:
        self.words, self.pid = words, pid
        self.returncode: int | None = None
        self._outputs = outputs

    def poll(self) -> int | None:
        """Its status, negative for a signal; None while it runs."""
        _server().read_statuses()
        self.returncode = _server().statuses.get(self.pid)
        return self.returncode

    def wait(self) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: if it has not ended within `LIMIT`; it is killed then.
        """
        until = time.monotonic() + LIMIT
        while (status := self.poll()) is None:
            if time.monotonic() > until:
                os.kill(self.pid, 9)
                raise subprocess.TimeoutExpired(self.words, LIMIT)
            _server().read_statuses(wait=True)
        return status

    def communicate(self) -> tuple[str, str]:
        """Wait for its end; everything that it wrote to stdout and stderr."""
        self.wait()
        for output in self._outputs:
            output.seek(0)
        out, err = (output.read().decode() for output in self._outputs)
        return out, err


def start(
    *words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None, process_group: bool = False
) -> Started:
    """Start a command.

    Args:
        words: a console script of this environment and its arguments, or `python` with `-c CODE` or `-m MODULE`.
        cwd: its folder; default: the current one.
        env: its environment; default: this process's.
        process_group: put it into a process group of its own.
    """
    outputs = TemporaryFile(), TemporaryFile()  # noqa: SIM115  read when the command has ended
    environment = dict(os.environ if env is None else env)
    request = {"words": words, "cwd": str(cwd or Path.cwd()), "env": environment, "process_group": process_group}
    with open(os.devnull, "rb") as nothing:
        pid = _server().start(request, nothing, *outputs)
    return Started(words, pid, outputs)


def run(*words: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; the arguments are those of `start`."""
    started = start(*words, cwd=cwd, env=env)
    out, err = started.communicate()
    return subprocess.CompletedProcess(words, started.wait(), out, err)


class _Server:
    """The process that forks: it lives until this one ends."""

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self._socket, theirs = socket.socketpair()
        self._began: list[int] = []
        self._unread = b""
        self._log = TemporaryFile()  # noqa: SIM115  as long as the process
        words = [sys.executable, "-m", "tests.helpers.warm_server", str(theirs.fileno())]
        self._process = subprocess.Popen(
            words, cwd=ROOT, env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
            pass_fds=[theirs.fileno()],
        )  # fmt: skip
        theirs.close()
        atexit.register(self._end, os.getpid())

    def start(self, request: Mapping[str, object], *files: IO[bytes]) -> int:
        """Start a command with these files as stdin, stdout and stderr; its process id."""
        body = json.dumps(request).encode()
        socket.send_fds(self._socket, [b"%8d" % len(body)], [file.fileno() for file in files])
        self._socket.sendall(body)
        while not self._began:
            self.read_statuses(wait=True)
        return self._began.pop()

    def read_statuses(self, wait: bool = False) -> None:
        """Read what the server has reported, and wait up to a second for more on request."""
        self._socket.settimeout(1.0 if wait else 0.0)
        try:
            received = self._socket.recv(65536)
        except (BlockingIOError, TimeoutError):
            return
        finally:
            self._socket.settimeout(None)
        if not received:
            self._log.seek(0)
            raise RuntimeError(f"the process that starts the commands ended:\n{self._log.read().decode()[-2000:]}")
        *lines, self._unread = (self._unread + received).split(b"\n")
        for pid, what in (line.split() for line in lines):
            if what == b"started":
                self._began.append(int(pid))
                self.statuses.pop(int(pid), None)
            else:
                self.statuses[int(pid)] = int(what)

    def _end(self, owner: int) -> None:
        # a fork of this process does not end it
        if os.getpid() == owner:
            self._socket.close()
            self._process.wait()


@functools.cache
def _server() -> _Server:
    return _Server()
