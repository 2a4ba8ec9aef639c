"""Start and watch workers through submitit: processes on this machine, or SLURM jobs that share its disk."""

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
from lmms_steer.recipes.cells import Cell
from lmms_steer.recipes.ledger import Ledger
from lmms_steer.recipes.processes import end_processes, process_trees, wait_until_gone
from lmms_steer.recipes.slurm_queue import SlurmQueue
from lmms_steer.recipes.worker import WorkerSpec, begun_file, run_worker

CLUSTERS = ("local", "slurm", "ray")
MINUTES_LOCAL = 365 * 24 * 60
"""Time limit of a worker on this machine. submitit requires one; a year is as good as none."""
MINUTES_SLURM = 24 * 60
"""Time limit of a SLURM job without `--slurm timeout_min=…`."""
MAX_IDLE_DEATHS = 2
"""How many workers may die early, while they run no cell, before the run is given up."""
EARLY_SECONDS = 60.0
"""A worker that has asked for cells for longer does not die as it starts."""
_OF_SUBMITIT = ("timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "tasks_per_node")
"""Settings that submitit has for every kind of cluster."""
GRACE_SECONDS = 5.0
"""How long workers have to end by themselves after the last cell."""


class WorkerPool:
    """The workers of one run.

    Args:
        root: the recipe's folder.
        run: id of this run.
        size: number of workers.
        cluster: local or slurm.
        slurm: `KEY=VALUE` for sbatch (`partition=gpu`), and submitit's own `gpus_per_node=1`, `timeout_min=600`.

    Raises:
        UserError: where the cluster is not available.
    """

    def __init__(self, root: Path, run: str, size: int, cluster: str, slurm: Sequence[str]) -> None:
        from submitit import AutoExecutor

        # its warnings are about the states of jobs, which are read here
        logging.getLogger("submitit").setLevel(logging.ERROR)

        self.root, self.run, self.size, self.cluster = root, run, size, cluster
        try:
            self.executor = AutoExecutor(folder=root / ".run" / "jobs", cluster=cluster)
            self.executor.update_parameters(**_parameters(cluster, slurm))
        except Exception as error:
            raise UserError(f"--cluster {cluster}: {first_line(error)}") from error
        self.jobs: dict[int, Any] = {}
        self.queue = SlurmQueue()
        self.idle_deaths = 0
        self.stopped = threading.Event()

    def start(self) -> None:
        """Start all workers, and the heartbeat for those on other machines.

        The heartbeat has its own thread because the consumer of this command's lines may be slow.
        """
        threading.Thread(target=self._beat, daemon=True).start()
        for number in range(self.size):
            self._start(number)

    def watch(self, ledger: Ledger, cells: Sequence[Cell]) -> Iterator[str | None]:
        """Watch until every cell has ended, and replace workers that die.

        Yields:
            A line for every worker that died, and None at every look.
        """
        while not ledger.over():
            for number, job in list(self.jobs.items()):
                if self._has_ended(job) and not ledger.over():
                    lines = list(ledger.worker_died(number, cells))
                    yield from lines
                    self.idle_deaths += not lines and self._died_early(number)
                    if self.idle_deaths > MAX_IDLE_DEATHS:
                        ledger.give_up(f"the workers die as they start: {_last_line(job)}")
                    elif not ledger.over():
                        self._start(number)
            yield None
            time.sleep(0.2)
        # workers see that too; those that end by themselves also clean up
        wait_until_gone(self._processes(), GRACE_SECONDS)

    def stop(self) -> None:
        """End all workers and everything that they started. Jobs of a cluster are cancelled."""
        self.stopped.set()
        # this takes a limited time, so that a second Ctrl-C can wait for it
        with _interrupts_ignored():
            end_processes(self._processes())
        for job in self.jobs.values() if self.cluster != "local" else ():
            if not self._has_ended(job):
                # one that has just ended is an error of scancel's, which must not keep the others
                with suppress(OSError):
                    job.cancel(check=False)

    def _died_early(self, number: int) -> bool:
        """Whether a worker ended soon after its start. Later, one that only waits has met its job's time limit."""
        try:
            return time.time() - begun_file(self.root, number).stat().st_mtime < EARLY_SECONDS
        except OSError:
            return True

    def _has_ended(self, job: Any) -> bool:
        if self.cluster != "slurm":
            return bool(job.done())
        # submitit's own `done` asks sacct, which prints an error at every look where there is no accounting
        gone = self.queue.gone([one.job_id for one in self.jobs.values()])
        return job.job_id in gone or job.paths.result_pickle.exists()

    def _processes(self) -> list[psutil.Process]:
        """The workers' processes on this machine, where a job's id is its process id."""
        local = [job for job in self.jobs.values() if not job.done()] if self.cluster == "local" else []
        return process_trees(int(job.job_id) for job in local)

    def _beat(self) -> None:
        while not self.stopped.wait(1):
            with suppress(OSError):
                (self.root / ".run" / "alive").touch()

    def _start(self, number: int) -> None:
        local = self.cluster == "local"
        begun_file(self.root, number).unlink(missing_ok=True)
        environment = _environment(number, self.size) if local else {}
        spec = WorkerSpec(str(self.root), number, self.run, os.getpid() if local else None, environment)
        try:
            # submitit prints what sbatch printed, and raises it too
            with _interrupts_ignored(), nullcontext() if local else redirect_stderr(io.StringIO()):
                self.jobs[number] = self.executor.submit(run_worker, spec)
        except Exception as error:
            raise UserError(f"--cluster {self.cluster}: no job could be started: {_error_line(error)}") from error


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C inside the block, also in the processes that it starts: they end with this process, silently."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        # None: the handler was not installed from Python and cannot be restored
        if handler is not None:
            signal.signal(signal.SIGINT, handler)


def _parameters(cluster: str, slurm: Sequence[str]) -> dict[str, Any]:
    """Parameters of a submitit executor. Options of sbatch that it does not know are passed on as they are."""
    from submitit.slurm.slurm import SlurmExecutor

    minutes = MINUTES_LOCAL if cluster == "local" else MINUTES_SLURM
    parameters: dict[str, Any] = {"name": "lmms-steer", "timeout_min": minutes}
    for pair in slurm:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--slurm {pair}: expected KEY=VALUE, as in --slurm partition=gpu")
        given = int(value) if value.isdecimal() else value
        if key in _OF_SUBMITIT:
            parameters[key] = given
        elif key.replace("-", "_") in SlurmExecutor._valid_parameters():
            parameters[f"slurm_{key.replace('-', '_')}"] = given
        else:
            parameters.setdefault("slurm_additional_parameters", {})[key] = given
    return parameters


def _environment(number: int, size: int) -> dict[str, str]:
    """Variables that give a worker its share of this machine's threads and GPUs."""
    variables = {}
    if size > 1 and "OMP_NUM_THREADS" not in os.environ:
        variables["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // size))
    gpus = _gpus()
    share = gpus[number::size] or [gpus[number % len(gpus)]] if gpus else []
    # set even where it changes nothing: submitit hides all GPUs from a job that asked for none
    variables["CUDA_VISIBLE_DEVICES"] = ",".join(share)
    return variables


def _gpus() -> list[str]:
    """The GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [part for part in visible.split(",") if part]
    return _installed_gpus()


@cache
def _installed_gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return re.findall(r"^GPU (\d+)", listing, re.MULTILINE)


def _error_line(error: Exception) -> str:
    """The line of sbatch's output that is the error; warnings may come first."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in lines if "error" in line.lower()), first_line(error))


def _last_line(job: Any) -> str:
    lines = (job.stderr() or "").strip().splitlines()
    return lines[-1] if lines else "they printed nothing"
