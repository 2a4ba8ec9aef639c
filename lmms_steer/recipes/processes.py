"""Processes that end together: find and kill whole process trees, and start programs that end with their parent.

`python -m lmms_steer.recipes.processes PID PROGRAM …` becomes the program, which ends when its parent, process PID,
dies of SIGKILL. A worker that dies this way cannot end what it started, and its cell is run again. Linux only; on other
systems the program is started without that.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil

TERMINATED = 128 + signal.SIGTERM
"""Exit status after SIGTERM, as a shell reports it."""
PR_SET_PDEATHSIG = 1
"""The prctl option "parent death signal" of Linux's <sys/prctl.h>."""


def process_trees(pids: Iterable[int]) -> list[psutil.Process]:
    """The processes that exist, with all their descendants, whatever group or session those are in."""
    trees = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(pid)
            trees += [top, *top.children(recursive=True)]
    return trees


def end_processes(processes: Iterable[psutil.Process], limit: float = 30.0) -> None:
    """Kill processes and all their descendants, and wait until they are gone.

    Args:
        processes: in any order.
        limit: seconds to wait. A process inside a driver's call can outlive even SIGKILL for long.
    """
    doomed = dict.fromkeys(processes)
    queue = list(doomed)
    for process in queue:
        with suppress(psutil.Error):
            # suspended first: a process that is killed before its children could start another in between
            process.suspend()
            queue += [child for child in process.children() if child not in doomed]
            doomed |= dict.fromkeys(queue)
    for process in doomed:
        with suppress(psutil.Error):
            process.kill()
    wait_until_gone(doomed, limit)


def kill_children() -> None:
    """Kill every descendant of this process, in whatever group: torchrun gives each of its processes its own group."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()


def wait_until_gone(processes: Iterable[psutil.Process], limit: float) -> None:
    """Wait until all processes are gone, or for `limit` seconds.

    Not `psutil.wait_procs`, which counts a zombie as alive. In a container whose process 1 collects no orphans a killed
    grandchild stays a zombie for ever.
    """
    until = time.monotonic() + limit
    while any(map(is_alive, processes)) and time.monotonic() < until:
        time.sleep(0.01)


def is_alive(process: psutil.Process) -> bool:
    """Whether a process still runs; a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@contextmanager
def noticed_termination() -> Iterator[threading.Event]:
    """Inside the block, SIGTERM sets the event instead of ending this process: what it started must be ended first.

    An event, and no exception at once, which between a submission and its record would lose a cluster's job.
    """
    terminated = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield terminated
        return
    handler = signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, handler if handler is not None else signal.SIG_DFL)


def tied_command(command: Sequence[str]) -> list[str]:
    """The command line that starts a program which ends when this process dies of SIGKILL."""
    return [sys.executable, "-m", __name__, str(os.getpid()), *command]


def _become(parent: int, command: Sequence[str]) -> None:
    if sys.platform == "linux":
        # SIGTERM, on which torchrun ends its own processes too
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            # the parent died before the line above
            sys.exit(1)
    os.execvp(command[0], [*command])  # noqa: S606  the recipe's own command


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
