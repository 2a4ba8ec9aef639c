"""What a worker does: take a cell, run it, say how it ended, until nothing is left. submitit starts it."""

import gc
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock

from lmms_steer import __version__
from lmms_steer.recipes import in_process as inside
from lmms_steer.recipes import preflight as memory
from lmms_steer.recipes import processes as ending
from lmms_steer.recipes.cells import Cell, content_digest, missing_output
from lmms_steer.recipes.preflight import missing_read
from lmms_steer.recipes.state import Ledger

SILENCE_LIMIT = 600.0
"""Seconds without a sign of the command that started them, on another machine, after which workers end."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A worker's place.

    Attributes:
        root: the recipe's folder.
        number: its own.
        run: which run of the recipe it belongs to.
        watcher: process of the command that started it, where that is on this machine.
        environment: set before torch is imported: threads, accelerators.
    """

    root: str
    number: int
    run: str
    watcher: int | None
    environment: dict[str, str]


def run_worker(post: WorkerSpec) -> int:
    """Returns the number of cells that it ran."""
    os.environ.update(post.environment)
    root = Path(post.root)
    threading.Thread(target=_watch, args=(post,), daemon=True).start()
    count = 0
    # one that still runs for a command that was killed must have ended before another of its number begins
    with FileLock(root / ".run" / f"worker-{post.number}.lock"):
        ledger = Ledger(root)
        cells = ledger.cells
        while not ledger.over():
            cell = ledger.take(post.number, cells)
            if cell is None:
                time.sleep(0.2)
                continue
            ledger.end(cell, **run_cell(cell, ledger))
            count += 1
    return count


def run_cell(
    cell: Cell, ledger: Ledger, run: Callable[[tuple[str, ...], Path], int] = inside.run_in_process
) -> dict[str, str | float]:
    """Run one cell; its state, why it failed, the seconds that it took."""
    marks, log = ledger.marks, ledger.marks.log(cell)
    began = time.monotonic()
    # where it fails before there is a new one, its folder still holds what the last one made
    fingerprint = marks.read(cell.name).get("fingerprint", "")
    try:
        wrong = f"it reads {lost}, which is not there" if (lost := missing_read(cell)) else None
        if wrong is None:
            fingerprint = marks.fingerprint(cell)
            marks.prepare(cell, fingerprint)
            wrong = memory.memory_problem(*cell.loads) if cell.loads else None
        if wrong is None:
            status = run(cell.command, log)
            wrong = inside.failure_reason(log) if status else missing_output(cell)
            if wrong and not status and log.is_file() and "Error" in (said := inside.failure_reason(log)):
                # lmms-eval ends with status 0 when an evaluation fails
                wrong = said
    except Exception as error:  # noqa: BLE001  one cell's trouble must not end the others
        traceback.print_exc()
        wrong = f"{type(error).__name__}: {error}"
    seconds = round(time.monotonic() - began, 1)
    _free()
    if wrong:
        marks.write(cell, state="failed", fingerprint=fingerprint, why=wrong, seconds=seconds)
        return {"state": "failed", "why": wrong, "seconds": seconds}
    marks.write(
        cell,
        state="done",
        fingerprint=fingerprint,
        left=content_digest(cell.makes),
        seconds=seconds,
        version=__version__,
    )
    return {"state": "done", "seconds": seconds}


def _free() -> None:
    gc.collect()
    if "torch" in sys.modules:
        import torch

        torch.cuda.empty_cache()


class Heartbeat:
    """When a stamp of another machine last changed, by this one's clock: theirs may be another.

    Args:
        now: seconds, of `time.monotonic`.
    """

    def __init__(self, now: float) -> None:
        self.stamp: int | None = None
        self.since = now

    def is_old(self, stamp: int | None, now: float) -> bool:
        """Whether it has not changed for `LONG_AGO`; None is a stamp that could not be read."""
        if stamp is not None and stamp != self.stamp:
            self.stamp, self.since = stamp, now
        return now - self.since > SILENCE_LIMIT


def _watch(post: WorkerSpec) -> None:
    """End this process and what it started when its command is gone: the next run must find the folder quiet."""
    folder = Path(post.root) / ".run"
    sign = Heartbeat(time.monotonic())
    while True:
        time.sleep(0.5)
        mine, stamp = True, None
        # a disk that is away for a moment says nothing
        with suppress(OSError):
            mine = (folder / "run").read_text(encoding="utf-8") == post.run
            stamp = (folder / "alive").stat().st_mtime_ns
        silent = sign.is_old(stamp, time.monotonic())
        if not mine or (silent if post.watcher is None else not _alive(post.watcher)):
            inside.end_children()
            os._exit(3)


def _alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return ending.is_alive(psutil.Process(pid))
    return False
