"""The end of processes and of all that they started: what is told to end is gone when the call returns."""

import time
from collections.abc import Iterable
from contextlib import suppress

import psutil


def process_trees(pids: Iterable[int]) -> list[psutil.Process]:
    """Those of the processes that are there, and all below them, whatever group or session they are in."""
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            top = psutil.Process(pid)
            found += [top, *top.children(recursive=True)]
    return found


def end_processes(processes: Iterable[psutil.Process], limit: float = 30.0) -> None:
    """Kill them and all below them, and wait until they are gone.

    Args:
        processes: their order does not matter.
        limit: seconds after which one that the system does not let go is left (a driver's call can hold it).
    """
    found = dict.fromkeys(processes)
    queue = list(found)
    for process in queue:
        with suppress(psutil.Error):
            # stopped first: a process that is killed before what it started could start something in between
            process.suspend()
            queue += [child for child in process.children() if child not in found]
            found |= dict.fromkeys(queue)
    for process in found:
        with suppress(psutil.Error):
            process.kill()
    wait_until_gone(found, limit)


def wait_until_gone(processes: Iterable[psutil.Process], limit: float) -> None:
    """Until all are gone, or for `limit` seconds."""
    until = time.monotonic() + limit
    while any(map(is_alive, processes)) and time.monotonic() < until:
        time.sleep(0.01)


def is_alive(process: psutil.Process) -> bool:
    try:
        # one that nobody has waited for is still listed
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
