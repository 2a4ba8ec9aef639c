"""Run a recipe's cells as tasks of a Ray cluster, whose machines need no shared disk.

The folder, the ledger and the marks stay with the command, where one thread for each worker takes cells. A cell's
command runs as a Ray task in an empty folder on some machine. The files that it reads go there, and the files that it
writes come back, through Ray's object store.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, suppress
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lmms_steer._util.io import write_atomically
from lmms_steer.errors import UserError, first_line
from lmms_steer.recipes.cells import Cell
from lmms_steer.recipes.in_process import run_in_process
from lmms_steer.recipes.ledger import Ledger
from lmms_steer.recipes.worker import run_cell

CONNECT_SECONDS = 5.0
"""How long the cluster has to answer."""
STOP_SECONDS = 5.0
"""How long the threads have to end after their tasks were cancelled."""
_NAMES = {"num_cpus": "CPU", "num_gpus": "GPU"}
"""Option of a Ray task ▸ Ray's name of the resource; any other name is that of a custom resource."""


class WorkerLost(BaseException):
    """A task ended without a result: it was cancelled, or its process or machine died.

    It is no `Exception`, because `run_cell` counts those as failures of the cell's own command.
    """


class RayPool:
    """The workers of one run on a Ray cluster.

    Args:
        root: the recipe's folder, relative to the current one.
        cells: the plan.
        size: the largest number of cells that run at the same time.
        settings: `KEY=VALUE`, what each cell needs: `num_cpus`, `num_gpus`, or a custom resource of the cluster.

    Raises:
        UserError: where no cluster answers, no machine has what is asked for, or the folder is
            not below the current one.
    """

    def __init__(self, root: Path, cells: Sequence[Cell], size: int, settings: Sequence[str]) -> None:
        resources = parse_resources(settings)
        if root.is_absolute() or ".." in root.parts:
            raise UserError(
                f"--cluster ray: the recipe's folder {str(root)!r} must be named relative to the current folder and"
                " lie below it, because the machines do not share it: --output runs/NAME"
            )
        self.root, self.cells, self.size = root, list(cells), size
        self._by_name = {cell.name: cell for cell in cells}
        self._ray = _connected()
        _check_capacity(self._ray, resources)
        options = {name: resources.pop(name) for name in _NAMES if name in resources}
        # a lost task is counted and started again by the ledger
        self._task = self._ray.remote(max_retries=0, resources=resources, **options)(run_shipped)
        self._running: dict[int, Any] = {}
        self._stored: dict[tuple[str, int, int], Any] = {}
        self._lines: list[str] = []
        self._errors: list[Exception] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,), daemon=True) for n in range(size)]

    def start(self) -> None:
        """Start all workers."""
        for thread in self._threads:
            thread.start()

    def watch(self, ledger: Ledger, cells: Sequence[Cell]) -> Iterator[str | None]:  # noqa: ARG002  as WorkerPool's
        """Watch until every cell has ended.

        Yields:
            A line for every task that was lost, and None at every look.

        Raises:
            Exception: the one that ended a thread, such as a full disk's.
        """
        while not ledger.over():
            while self._lines:
                yield self._lines.pop(0)
            if self._errors:
                raise self._errors[0]
            yield None
            time.sleep(0.2)
        yield from self._lines

    def stop(self) -> None:
        """Cancel what still runs, and leave the cluster, which ends what this command started there."""
        self._stopped.set()
        for task in list(self._running.values()):
            with suppress(Exception):
                self._ray.cancel(task, force=True)
        until = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, until - time.monotonic()))
        self._ray.shutdown()

    def _work(self, number: int) -> None:
        """Run cells until all have ended."""
        try:
            ledger = Ledger(self.root)
            while not self._stopped.is_set() and not ledger.over():
                cell = ledger.take(number, self.cells)
                if cell is None:
                    time.sleep(0.2)
                    continue
                try:
                    # this machine's memory says nothing about that of the others
                    mark = run_cell(replace(cell, loads=None), ledger, partial(self._run, number, cell))
                except WorkerLost:
                    if not self._stopped.is_set():
                        self._lines += ledger.worker_died(number, self.cells)
                    continue
                ledger.end(cell, mark.state, mark.why, mark.seconds)
        except Exception as error:  # noqa: BLE001  the watching thread raises it
            self._errors.append(error)

    def _run(self, number: int, cell: Cell, command: tuple[str, ...], log: Path) -> int:
        """Run a cell's command on the cluster; its exit status.

        Raises:
            WorkerLost: where the task ended without a result.
        """
        exceptions = self._ray.exceptions
        try:
            task = self._task.remote(command, {str(path): self._store(path) for path in self._inputs(cell)})
            self._running[number] = task
            status, text, made = self._ray.get(task)
        except exceptions.RayTaskError as error:
            raise RuntimeError(first_line(error.cause)) from error
        except exceptions.RayError as error:
            raise WorkerLost(first_line(error)) from error
        finally:
            self._running.pop(number, None)
        if self._stopped.is_set():
            raise WorkerLost("the run was stopped")
        _write({str(log): text, **made})
        return int(status)

    def _inputs(self, cell: Cell) -> list[Path]:
        """The files that a command may read, and what an earlier try of it has left.

        Absolute paths are not sent: what a recipe names by them must be on every machine.
        """
        names, pending = {*cell.reads, *cell.makes, *cell.may_make, *filter(None, [cell.folder])}, list(cell.needs)
        while pending:
            needed = self._by_name[pending.pop()]
            # a search's folder has more than what it must make
            names.update((*needed.makes, *filter(None, [needed.folder])))
            pending += needed.needs
        return sorted({file for name in names if not Path(name).is_absolute() for file in _files(Path(name))})

    def _store(self, path: Path) -> Any:
        """The reference of a file's content in the object store, where it is put once."""
        stat = path.stat()
        key = str(path), stat.st_mtime_ns, stat.st_size
        if key not in self._stored:
            self._stored[key] = self._ray.put(path.read_bytes())
        return self._stored[key]


def run_shipped(command: tuple[str, ...], files: Mapping[str, Any]) -> tuple[int, bytes, dict[str, bytes]]:
    """Run a command in an empty folder: the task that a machine of the cluster runs.

    Args:
        command: the words of the command line.
        files: relative path ▸ the reference of its content.

    Returns:
        The exit status, everything that the command printed, and the files that it wrote or changed.
    """
    ray: Any = import_module("ray")
    with TemporaryDirectory(prefix="lmms-steer-") as folder, chdir(folder):
        _write(dict(zip(files, ray.get(list(files.values())), strict=True)))
        before = {path: _stamp(path) for path in _files(Path())}
        log = Path("log")
        status = run_in_process(command, log)
        made = [path for path in _files(Path()) if path != log and before.get(path) != _stamp(path)]
        return status, log.read_bytes(), {str(path): path.read_bytes() for path in made}


def parse_resources(settings: Sequence[str]) -> dict[str, float]:
    """What each cell needs, from `KEY=VALUE`.

    Raises:
        UserError: for a setting without a number.
    """
    resources: dict[str, float] = {}
    for pair in settings:
        key, _, value = pair.partition("=")
        try:
            resources[key.strip()] = float(value)
        except ValueError:
            raise UserError(f"--ray {pair}: expected KEY=NUMBER, as in --ray num_gpus=1") from None
    return resources


def _connected() -> Any:
    """The module `ray`, connected to a cluster.

    Raises:
        UserError: where no cluster answers.
    """
    address = _address()
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        # ray itself tries for minutes
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        ray: Any = import_module("ray")
        handler = signal.getsignal(signal.SIGTERM)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        if threading.current_thread() is threading.main_thread():
            # ray replaces it
            signal.signal(signal.SIGTERM, handler)
    except Exception as error:
        raise UserError(
            f"--cluster ray: no Ray cluster answers at {address} ({first_line(error)}): start one with `ray start"
            " --head`, or set RAY_ADDRESS"
        ) from error
    return ray


def _address() -> str:
    """`HOST:PORT` of the cluster: `$RAY_ADDRESS`, or that of the one which this machine belongs to.

    Raises:
        UserError: where there is none.
    """
    given = os.environ.get("RAY_ADDRESS", "auto")
    if given not in ("", "auto"):
        return given
    try:
        # `ray start` writes it
        return Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster").read_text("utf-8").strip()
    except OSError:
        raise UserError(
            "--cluster ray: this machine belongs to no Ray cluster: start one with `ray start --head`, or set"
            " RAY_ADDRESS=HOST:PORT"
        ) from None


def _check_capacity(ray: Any, resources: Mapping[str, float]) -> None:
    """
    Raises:
        UserError: where no machine of the cluster has these resources, so that a task would wait forever.
    """
    needed = {_NAMES.get(name, name): number for name, number in resources.items()}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(machine.get(name, 0) >= number for name, number in needed.items()) for machine in machines):
        ray.shutdown()
        asked = " ".join(f"--ray {name}={number:g}" for name, number in resources.items())
        largest = {name: max(machine.get(name, 0) for machine in machines) for name in needed}
        listed = ", ".join(f"{name} {number:g}" for name, number in largest.items())
        raise UserError(f"{asked}: no machine of the Ray cluster has that; the most that one has: {listed}")


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def _stamp(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _write(contents: Mapping[str, bytes]) -> None:
    for name, content in contents.items():
        write_atomically(Path(name), content)
