"""A worker: takes cells from the ledger and runs them until every cell has ended. submitit starts it."""

import gc
import os
import signal
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
from lmms_steer.recipes.cells import Cell, Mark, missing_output, vector_file
from lmms_steer.recipes.in_process import failure_reason, run_in_process
from lmms_steer.recipes.ledger import Ledger
from lmms_steer.recipes.preflight import memory_problem, missing_read
from lmms_steer.recipes.processes import is_alive, kill_children

SILENCE_LIMIT = 600.0
"""Seconds without a heartbeat of the command on another machine that started the workers, after which they end."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker has to know.

    Attributes:
        root: the recipe's folder.
        number: the worker's number.
        run: id of the run that the worker belongs to.
        watcher: process id of the command that started it; None where that is on another machine.
        environment: variables to set before torch is imported: threads, accelerators.
    """

    root: str
    number: int
    run: str
    watcher: int | None
    environment: dict[str, str]


def run_worker(spec: WorkerSpec) -> int:
    """Run cells until all have ended; returns the number of cells that this worker ran."""
    os.environ.update(spec.environment)
    _end_at_signals()
    root = Path(spec.root)
    threading.Thread(target=_watch, args=(spec,), daemon=True).start()
    count = 0
    # a worker of the same number that a killed run left behind must end first
    with FileLock(root / ".run" / f"worker-{spec.number}.lock"):
        ledger = Ledger(root)
        cells = ledger.cells
        kinds: set[str] = set()
        # SLURM may start a job of a run that is over again
        if not _is_current(spec):
            return 0
        ledger.reopen(spec.number)
        begun_file(root, spec.number).touch()
        while not ledger.over():
            cell = ledger.take(spec.number, cells)
            if cell is None:
                time.sleep(0.2)
                continue
            mark = run_cell(cell, ledger)
            ledger.end(cell, mark.state, mark.why, mark.seconds)
            count += 1
            if cell.kind not in kinds:
                kinds.add(cell.kind)
                exempt_imports()
    return count


def begun_file(root: Path, number: int) -> Path:
    """The file that says since when the worker of a number has asked for cells."""
    return root / ".run" / f"worker-{number}.begun"


def run_cell(cell: Cell, ledger: Ledger, run: Callable[[tuple[str, ...], Path], int] = run_in_process) -> Mark:
    """Run one cell, write its mark and return it.

    A cell that was done before and fails before it writes anything, because an input is missing, keeps that mark and
    its output, which is valid again once the input is back.

    Args:
        cell: the cell, whose needs are done.
        ledger: of the recipe's folder.
        run: runs a command line with its output in a log file, and returns its exit status.
    """
    marks, log = ledger.marks, ledger.marks.log(cell)
    began = time.monotonic()
    before = marks.read(cell.name)
    fingerprint, prepared, extracts = before.fingerprint, False, False
    moved: Path | None = None
    try:
        missing = missing_read(cell)
        problem = f"it reads {missing}, which is not there" if missing else None
        if problem is None:
            fingerprint = marks.fingerprint(cell)
            extracts = not all(map(vector_file, cell.vectors))
            moved = marks.prepare(cell, fingerprint)
            prepared = True
            problem = memory_problem(*cell.loads) if cell.loads else None
        if problem is None:
            status = run(cell.command, log)
            problem = failure_reason(log) if status else missing_output(cell)
            if problem and not status and log.is_file() and "Error" in (logged := failure_reason(log)):
                # lmms-eval ends with status 0 when an evaluation fails
                problem = logged
    except Exception as error:  # noqa: BLE001  an error in one cell must not end the others
        traceback.print_exc()
        problem = f"{type(error).__name__}: {error}"
    seconds = round(time.monotonic() - began, 1)
    _free_memory()
    if problem:
        mark = Mark(str(cell), "failed", fingerprint, why=problem, seconds=seconds)
    else:
        # with the vectors that it extracted on first use
        fingerprint = marks.fingerprint(cell) if extracts else fingerprint
        output_sha256 = cell.output_sha256
        mark = Mark(str(cell), "done", fingerprint, output_sha256, seconds=seconds, version=__version__)
    failed = problem is not None
    is_back = failed and moved is not None and before.state == "done" and marks.put_back(cell, before, moved)
    if (prepared and not is_back) or before.state != "done":
        marks.write(cell, mark)
    return mark


class Heartbeat:
    """Whether a time stamp that another machine renews has stopped changing.

    Only this machine's clock is read: the clocks of two machines may differ.

    Args:
        now: seconds, of `time.monotonic`.
    """

    def __init__(self, now: float) -> None:
        self.stamp: int | None = None
        self.since = now

    def is_old(self, stamp: int | None, now: float) -> bool:
        """Whether the stamp has not changed for `SILENCE_LIMIT` seconds; None is a stamp that could not be read."""
        if stamp is not None and stamp != self.stamp:
            self.stamp, self.since = stamp, now
        return now - self.since > SILENCE_LIMIT


def exempt_imports() -> None:
    """Exempt what is alive between two cells, the imports, from later garbage collections.

    lmms-eval collects twice an evaluation. With its imports, torch's and ours that takes a second, which is most of a
    small evaluation. What was exempt and has become garbage since is collected first.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def _free_memory() -> None:
    gc.collect()
    if "torch" in sys.modules:
        import torch

        torch.cuda.empty_cache()


def _end_at_signals() -> None:
    """End this process and its children at the signals that announce the end of a SLURM job.

    submitit ignores SIGTERM, and at the signal before the time limit it raises an exception. Either way the cell would
    fail for an error of its own, when its programs get the signal too, and would not be tried again.
    """
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, lambda *_: _end())


def _watch(spec: WorkerSpec) -> None:
    """End this process and its children when their command is gone: nothing may write into the next run's folder."""
    alive = Path(spec.root) / ".run" / "alive"
    heartbeat = Heartbeat(time.monotonic())
    while True:
        time.sleep(0.5)
        stamp = None
        with suppress(OSError):
            stamp = alive.stat().st_mtime_ns
        silent = heartbeat.is_old(stamp, time.monotonic())
        if not _is_current(spec) or (silent if spec.watcher is None else not _process_exists(spec.watcher)):
            _end()


def _end() -> None:
    kill_children()
    os._exit(3)


def _is_current(spec: WorkerSpec) -> bool:
    """Whether the worker's run is the one that its folder is in use by."""
    # a shared disk that cannot be read for a moment says nothing about the command
    with suppress(OSError):
        return (Path(spec.root) / ".run" / "run").read_text(encoding="utf-8") == spec.run
    return True


def _process_exists(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return is_alive(psutil.Process(pid))
    return False
