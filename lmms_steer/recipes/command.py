"""`lmms-steer run`: check, plan, then run what is not done, and say at the end what became of every cell."""

import os
import socket
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lmms_steer.errors import UserError, unknown_name
from lmms_steer.recipes import preflight as cost
from lmms_steer.recipes.cells import Cell, Marks
from lmms_steer.recipes.loading import load_recipe
from lmms_steer.recipes.plan import Planner
from lmms_steer.recipes.scheduler import CLUSTERS, WorkerPool
from lmms_steer.recipes.state import ENDED, Ledger, States


def run_recipe(
    name: str,
    output: Path | None = None,
    over: Sequence[str] = (),
    assignments: Sequence[str] = (),
    dry_run: bool = False,
    workers: int = 1,
    cluster: str = "local",
    slurm: Sequence[str] = (),
) -> Generator[str]:
    """Yields what the user should read; closed, or ended by an error, it leaves no process that it started.

    Raises:
        UserError: before anything runs, for a mistake in the recipe or a folder that is in use; at the end, where cells
            failed.
    """
    if cluster not in CLUSTERS:
        raise unknown_name("cluster", cluster, CLUSTERS)
    if slurm and cluster != "slurm":
        raise UserError(f"--slurm {slurm[0]} is for SLURM jobs: add --cluster slurm")
    stem, recipe = load_recipe(name, over, assignments)
    # what stands in for another must not be taken for it
    root = output or Path("-".join([recipe.output or f"runs/{stem}", *(Path(file).stem for file in over)]))
    cells = Planner(recipe, root).cells()
    if dry_run:
        states = _kept(root, cells)
        for cell in cells:
            yield f"# {cell.name}{' (done)' if states[cell.name]['state'] == 'kept' else ''}\n{cell}"
        # last, where a terminal stands when hundreds of commands have gone by
        yield from (f"# {line}" for line in cost.cost_lines(recipe, cells, states, Marks(root)))
        return
    yield from cost.cost_lines(recipe, cells, _kept(root, cells), Marks(root))
    yield from run_cells(root, cells, workers, cluster, slurm)


def run_cells(
    root: Path, cells: Sequence[Cell], workers: int = 1, cluster: str = "local", slurm: Sequence[str] = ()
) -> Generator[str]:
    """Run the cells that are not done; yields a line for each as it ends, what the last ones printed, and a report.

    Raises:
        UserError: where the folder is in use, and at the end where cells failed.
    """
    (root / ".run").mkdir(parents=True, exist_ok=True)
    with _alone(root):
        ledger = Ledger(root)
        ledger.begin(cells)
        yield f"logs: {root / 'cells'}"
        began = time.monotonic()
        if not ledger.over():
            yield from _worked(ledger, cells, root, min(workers, len(cells)), cluster, slurm)
        yield from _report(ledger, cells, root, time.monotonic() - began)


def _kept(root: Path, cells: Sequence[Cell]) -> States:
    """As `Ledger.begin`, but nothing is written."""
    marks, states = Marks(root), States()
    for cell in cells:
        before = all(states[name]["state"] == "kept" for name in cell.needs)
        states[cell.name] = {"state": "kept" if before and marks.done(cell) else "open"}
    return states


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """The folder's lock; what a killed run left has ended by then.

    Raises:
        UserError: where another run has it.
    """
    lock = FileLock(root / ".run" / "lock", blocking=False)
    owner = root / ".run" / "owner"
    try:
        lock.acquire()
    except Timeout as error:
        whose = owner.read_text(encoding="utf-8") if owner.is_file() else "unknown"
        raise UserError(f"{root} is in use by another run ({whose}): wait, or choose another --output") from error
    owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    (root / ".run" / "run").write_text("", encoding="utf-8")
    for path in sorted((root / ".run").glob("worker-*.lock")):
        try:
            with FileLock(path, timeout=60):
                pass
        except Timeout as error:
            lock.release()
            raise UserError(f"a worker of an earlier run is still at work in {root}: wait, or stop it") from error
    try:
        yield
    finally:
        lock.release()


def _worked(
    ledger: Ledger, cells: Sequence[Cell], root: Path, workers: int, cluster: str, slurm: Sequence[str]
) -> Iterator[str]:
    name = uuid.uuid4().hex
    (root / ".run" / "run").write_text(name, encoding="utf-8")
    (root / ".run" / "alive").touch()
    crew = WorkerPool(root, name, workers, cluster, slurm)
    told = {cell for cell, state in ledger.states().items() if state["state"] in ENDED}
    try:
        crew.start()
        for line in crew.watch(ledger, cells):
            if line:
                yield line
            yield from _news(ledger.states(), told)
        yield from _news(ledger.states(), told)
    finally:
        # for jobs on other machines; a full disk must not keep the rest from its end
        with suppress(OSError):
            (root / ".run" / "run").write_text("", encoding="utf-8")
        crew.stop()


def _news(states: States, told: set[str]) -> Iterator[str]:
    for name, state in states.items():
        if state["state"] in ENDED and name not in told:
            told.add(name)
            more = f" ({state['seconds']} s)" if "seconds" in state else ""
            yield f"[{len(told)}/{len(states)}] {name}: {state['state']}{more}{_reason(state)}"


def _report(ledger: Ledger, cells: Sequence[Cell], root: Path, seconds: float) -> Iterator[str]:
    states = ledger.states()
    for cell in cells:
        if cell.show and states[cell.name]["state"] in ("done", "kept"):
            yield "\n" + ledger.marks.log(cell).read_text(encoding="utf-8", errors="replace").rstrip()
    lost = {name: state for name, state in states.items() if state["state"] in ("failed", "skipped")}
    yield f"\n{len(states) - len(lost)} of {len(states)} cells are done in {root}; {seconds / 60:.1f} minutes"
    if not lost:
        return
    for name, state in lost.items():
        log = f"; {ledger.marks.root / name}.log" if state["state"] == "failed" else ""
        yield f"{state['state'].upper():8} {name}{_reason(state)}{log}"
    failed = sum(state["state"] == "failed" for state in lost.values())
    noun = "cell" if failed == 1 else "cells"
    raise UserError(f"{failed} {noun} failed and {len(lost) - failed} were skipped: run it again to try these only")


def _reason(state: dict[str, object]) -> str:
    return f": {state['why']}" if "why" in state else ""
