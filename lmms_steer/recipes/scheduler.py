"""Workers through submitit: processes on this machine, or SLURM jobs on others that share its disk."""

import io
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from lmms_steer.errors import UserError, first_line
from lmms_steer.recipes import processes as ending
from lmms_steer.recipes.cells import Cell
from lmms_steer.recipes.state import Ledger
from lmms_steer.recipes.worker import WorkerSpec, run_worker

CLUSTERS = ("local", "slurm")
A_YEAR = 365 * 24 * 60
DEATHS = 2
"""Workers that may die without a cell before the rest is given up."""
PATIENCE = 5.0
"""Seconds for workers to end by themselves when all cells have ended."""


class WorkerPool:
    """The workers of one run.

    Args:
        root: the recipe's folder.
        run: a name of this run.
        size: how many.
        cluster: local or slurm.
        slurm: `KEY=VALUE` for sbatch (`partition=gpu`), `gpus_per_node=1`, `timeout_min=600`.

    Raises:
        UserError: where the cluster is not there.
    """

    def __init__(self, root: Path, run: str, size: int, cluster: str, slurm: Sequence[str]) -> None:
        from submitit import AutoExecutor

        # without SLURM's accounting it warns at every look; what a job left behind tells its state then
        logging.getLogger("submitit").setLevel(logging.ERROR)

        self.root, self.run, self.size, self.cluster = root, run, size, cluster
        try:
            self.executor = AutoExecutor(folder=root / ".run" / "jobs", cluster=cluster)
            self.executor.update_parameters(**_parameters(cluster, slurm))
        except Exception as error:
            raise UserError(f"--cluster {cluster}: {first_line(error)}") from error
        self.jobs: dict[int, Any] = {}
        self.idle_deaths = 0
        self.over = threading.Event()

    def start(self) -> None:
        """All of them, and a sign of life for those on other machines: whoever reads our lines may be slow."""
        threading.Thread(target=self._sign, daemon=True).start()
        for number in range(self.size):
            self._start(number)

    def watch(self, ledger: Ledger, cells: Sequence[Cell]) -> Iterator[str]:
        """Until every cell has ended; yields a line for every worker that died."""
        while not ledger.over():
            for number, job in list(self.jobs.items()):
                if job.done() and not ledger.over():
                    lines = list(ledger.worker_died(number, cells))
                    yield from lines
                    self.idle_deaths += not lines
                    if self.idle_deaths > DEATHS:
                        ledger.give_up(f"the workers die as they start: {_last_line(job)}")
                    elif not ledger.over():
                        self._start(number)
            yield ""
            time.sleep(0.2)
        # they see it too, and what they clean up as they end is cleaned up
        ending.wait_until_gone(self._processes(), PATIENCE)

    def stop(self) -> None:
        """End the cluster's jobs; workers on this machine, and all that they started, are gone when this returns."""
        self.over.set()
        # bounded, so a second Ctrl-C may wait for it
        with _deaf():
            ending.end_processes(self._processes())
        for job in self.jobs.values() if self.cluster != "local" else ():
            if not job.done():
                job.cancel()

    def _processes(self) -> list[psutil.Process]:
        """On this machine, where a job's name is the number of its process."""
        local = [job for job in self.jobs.values() if not job.done()] if self.cluster == "local" else []
        return ending.process_trees(int(job.job_id) for job in local)

    def _sign(self) -> None:
        while not self.over.wait(1):
            with suppress(OSError):
                (self.root / ".run" / "alive").touch()

    def _start(self, number: int) -> None:
        local = self.cluster == "local"
        environment = _environment(number, self.size) if local else {}
        post = WorkerSpec(str(self.root), number, self.run, os.getpid() if local else None, environment)
        said = io.StringIO()
        try:
            # submitit prints what sbatch said, and raises it too
            with _deaf(), nullcontext() if local else redirect_stderr(said):
                self.jobs[number] = self.executor.submit(run_worker, post)
        except Exception as error:
            raise UserError(f"--cluster {self.cluster}: no job could be started: {_reason(error)}") from error


@contextmanager
def _deaf() -> Iterator[None]:
    """What is started in here takes no notice of Ctrl-C: it ends when this process does, without a word of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        # None: whoever put it there did not use Python
        if before is not None:
            signal.signal(signal.SIGINT, before)


def _parameters(cluster: str, slurm: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": "lmms-steer", "timeout_min": A_YEAR if cluster == "local" else 24 * 60}
    for pair in slurm:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--slurm {pair}: expected KEY=VALUE, as in --slurm partition=gpu")
        common = ("timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
        found[key if key in common else f"slurm_{key}"] = int(value) if value.isdecimal() else value
    return found


def _environment(number: int, size: int) -> dict[str, str]:
    """Each worker's share of this machine's threads and accelerators."""
    found = {}
    if size > 1 and "OMP_NUM_THREADS" not in os.environ:
        found["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // size))
    there = _accelerators()
    own = there[number::size] or [there[number % len(there)]] if there else []
    found["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    return found


def _accelerators() -> list[str]:
    """Those that this process may use: submitit hides all from a job that asked for none."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [part for part in named.split(",") if part]
    return _installed()


@cache
def _installed() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return re.findall(r"^GPU (\d+)", listed, re.MULTILINE)


def _reason(error: Exception) -> str:
    """The line of sbatch's that is the error; it may warn first."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "error" in line.lower()), first_line(error))


def _last_line(job: Any) -> str:
    lines = (job.stderr() or "").strip().splitlines()
    return lines[-1] if lines else "they printed nothing"
