"""`lmms-steer run`: validate and plan a recipe, run the cells that are not done, and report how every cell ended."""

import os
import socket
import time
import uuid
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lmms_steer._util.extras import require_extra
from lmms_steer._util.formatting import count_noun
from lmms_steer._util.io import user_path
from lmms_steer.errors import UserError, unknown_name
from lmms_steer.recipes.calibration import measured_speed
from lmms_steer.recipes.cells import Cell, Marks
from lmms_steer.recipes.cost import speed_of
from lmms_steer.recipes.ledger import CellState, Ledger, States, as_before
from lmms_steer.recipes.loading import load_recipe
from lmms_steer.recipes.plan import Planner
from lmms_steer.recipes.preflight import cost_lines
from lmms_steer.recipes.processes import TERMINATED, noticed_termination
from lmms_steer.recipes.ray_pool import RayPool, parse_resources
from lmms_steer.recipes.scheduler import CLUSTERS, WorkerPool
from lmms_steer.recipes.shapes import find_card

WORKER_TIMEOUT = 60.0
"""Seconds that workers of a killed run have to end before a new run starts in the same folder."""


def run_recipe(
    name: str,
    output: Path | None = None,
    overlays: Sequence[str] = (),
    assignments: Sequence[str] = (),
    dry_run: bool = False,
    workers: int = 1,
    cluster: str = "local",
    slurm: Sequence[str] = (),
    gpu: str | None = None,
    calibrate: bool = False,
    ray: Sequence[str] = (),
) -> Generator[str]:
    """Run a recipe. A generator that is closed, or ends with an error, leaves no process that it started.

    Args:
        name: a file, or the name of a recipe that ships.
        output: the recipe's folder. Default: the one that the recipe names, else `runs/NAME`, with the overlays' names
            appended.
        overlays, assignments: changes to the recipe, as for `load_recipe`.
        dry_run: print every command and what the plan costs, and run nothing.
        workers: number of processes, SLURM jobs, or Ray tasks at the same time.
        cluster: local, slurm or ray.
        slurm: settings of SLURM jobs, as for `WorkerPool`.
        gpu: with `dry_run`, a card of `costs.yaml` that the cost is estimated for.
        calibrate: with `dry_run`, estimate the cost for this machine's device, by what is measured on it.
        ray: what each cell needs of a machine, as for `RayPool`.

    Yields:
        Lines for the user.

    Raises:
        UserError: before anything runs, for a mistake in the recipe or a folder that is in use; at the end, where cells
            failed.
    """
    if cluster not in CLUSTERS:
        raise unknown_name("cluster", cluster, CLUSTERS)
    if slurm and cluster != "slurm":
        raise UserError(f"--slurm {slurm[0]} is for SLURM jobs: add --cluster slurm")
    if ray and cluster != "ray":
        raise UserError(f"--ray {ray[0]} is for the machines of a Ray cluster: add --cluster ray")
    parse_resources(ray)
    if cluster == "ray":
        require_extra("ray", "--cluster ray")
    if (gpu or calibrate) and not dry_run:
        raise UserError(f"{'--calibrate' if calibrate else '--gpu'} estimates the cost of a plan: add --dry-run")
    if gpu and calibrate:
        raise UserError("--gpu is for a card that is not here, --calibrate for this machine's: give one of them")
    speed = speed_of(find_card(gpu)) if gpu else None
    stem, recipe = load_recipe(name, overlays, assignments)
    # a changed recipe must not write into the folder of the original
    own = str(user_path(recipe.output or f"runs/{stem}"))
    root = output or Path("-".join([own, *(Path(file).stem for file in overlays)]))
    root = as_before(root)
    cells = Planner(recipe, root).cells()
    states = _states_before(root, cells)
    if dry_run:
        for cell in cells:
            yield f"# {cell.name}{' (done)' if states[cell.name].state == 'kept' else ''}\n{cell}"
        if calibrate:
            speed = measured_speed([model.pretrained for model in recipe.models.values()])
        # last, so that hundreds of commands do not push it off the screen
        yield from (f"# {line}" for line in cost_lines(recipe, cells, states, Marks(root), speed))
        return
    yield from cost_lines(recipe, cells, states, Marks(root))
    yield from run_cells(root, cells, workers, cluster, slurm, ray)


def run_cells(
    root: Path,
    cells: Sequence[Cell],
    workers: int = 1,
    cluster: str = "local",
    slurm: Sequence[str] = (),
    ray: Sequence[str] = (),
) -> Generator[str]:
    """Run the cells that are not done.

    Args:
        root: the recipe's folder.
        cells: each after the cells that it needs.
        workers, cluster, slurm, ray: as for `run_recipe`.

    Yields:
        A line for each cell as it ends, the output of the cells that are shown, the warnings of extractions, and a
        report.

    Raises:
        UserError: where the folder is in use, and at the end where cells failed.
    """
    (root / ".run").mkdir(parents=True, exist_ok=True)
    with _folder_locked(root):
        ledger = Ledger(root)
        ledger.begin(cells)
        yield f"logs: {root / 'cells'}"
        yield from _found(ledger, cells)
        began = time.monotonic()
        if not ledger.over():
            yield from _run_workers(ledger, cells, root, min(workers, len(cells)), cluster, slurm, ray)
        yield from _report(ledger, cells, root, time.monotonic() - began)


def _found(ledger: Ledger, cells: Sequence[Cell]) -> Iterator[str]:
    """What an earlier run has left: how many cells are done, and why others that it started are run again."""
    states = ledger.states()
    kept = sum(state.has_output for state in states.values())
    again = {
        cell.name: why for cell in cells if not states[cell.name].has_output and (why := ledger.marks.why_again(cell))
    }
    if kept or again:
        listed = f"; run again: {'; '.join(f'{name} ({why})' for name, why in again.items())}" if again else ""
        yield f"resumed: {kept} of {count_noun(len(cells), 'cell')} done before{listed}"


def _states_before(root: Path, cells: Sequence[Cell]) -> States:
    """The states that `Ledger.begin` would find, without writing them."""
    marks, states = Marks(root), States()
    for cell in cells:
        needs_kept = all(states[name].state == "kept" for name in cell.needs)
        states[cell.name] = CellState("kept" if needs_kept and marks.done(cell) else "open")
    return states


@contextmanager
def _folder_locked(root: Path) -> Iterator[None]:
    """Hold the lock of a recipe's folder, after the workers of a killed run have ended.

    Raises:
        UserError: where another run holds it.
    """
    lock = FileLock(root / ".run" / "lock", blocking=False)
    owner = root / ".run" / "owner"
    try:
        lock.acquire()
    except Timeout as error:
        holder = owner.read_text(encoding="utf-8") if owner.is_file() else "unknown"
        raise UserError(f"{root} is in use by another run ({holder}): wait, or choose another --output") from error
    owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    (root / ".run" / "run").write_text("", encoding="utf-8")
    for path in sorted((root / ".run").glob("worker-*.lock")):
        try:
            with FileLock(path, timeout=WORKER_TIMEOUT):
                pass
        except Timeout as error:
            lock.release()
            raise UserError(f"a worker of an earlier run is still running in {root}: wait, or stop it") from error
    try:
        yield
    finally:
        lock.release()


def _run_workers(
    ledger: Ledger,
    cells: Sequence[Cell],
    root: Path,
    workers: int,
    cluster: str,
    slurm: Sequence[str],
    ray: Sequence[str],
) -> Iterator[str]:
    run = uuid.uuid4().hex
    (root / ".run" / "run").write_text(run, encoding="utf-8")
    (root / ".run" / "alive").touch()
    pool: WorkerPool | RayPool
    pool = RayPool(root, cells, workers, ray) if cluster == "ray" else WorkerPool(root, run, workers, cluster, slurm)
    reported = {cell for cell, state in ledger.states().items() if state.has_ended}
    with noticed_termination() as terminated:
        try:
            pool.start()
            for line in pool.watch(ledger, cells):
                if line is not None:
                    yield line
                yield from _newly_ended(ledger.states(), reported)
                if terminated.is_set():
                    raise SystemExit(TERMINATED)
            yield from _newly_ended(ledger.states(), reported)
        finally:
            # the signal for jobs on other machines; a full disk must not keep the local workers from being stopped
            with suppress(OSError):
                (root / ".run" / "run").write_text("", encoding="utf-8")
            pool.stop()


def _newly_ended(states: States, reported: set[str]) -> Iterator[str]:
    """A line for each cell that has ended and is not yet in `reported`, which it is added to."""
    for name, state in states.items():
        if state.has_ended and name not in reported:
            reported.add(name)
            duration = f" ({state.seconds} s)" if state.seconds is not None else ""
            yield f"[{len(reported)}/{len(states)}] {name}: {state.state}{duration}{_reason(state)}"


def _report(ledger: Ledger, cells: Sequence[Cell], root: Path, seconds: float) -> Iterator[str]:
    states = ledger.states()
    for cell in cells:
        if cell.show and states[cell.name].has_output:
            yield "\n" + ledger.marks.log(cell).read_text(encoding="utf-8", errors="replace").rstrip()
    yield from _warnings(ledger, [cell for cell in cells if states[cell.name].has_output])
    lost = {name: state for name, state in states.items() if not state.has_output}
    yield f"\n{len(states) - len(lost)} of {len(states)} cells are done in {root}; {seconds / 60:.1f} minutes"
    if not lost:
        return
    for name, state in lost.items():
        log = f"; {ledger.marks.root / name}.log" if state.state == "failed" else ""
        yield f"{state.state.upper():8} {name}{_reason(state)}{log}"
    failed = sum(state.state == "failed" for state in lost.values())
    noun = "cell" if failed == 1 else "cells"
    raise UserError(
        f"{failed} {noun} failed and {len(lost) - failed} were skipped: run the recipe again to try only these"
    )


def _warnings(ledger: Ledger, cells: Sequence[Cell]) -> Iterator[str]:
    """What the extractions warned of, such as SAE features that nobody checked; each warning once."""
    logs = {line: ledger.marks.log(cell) for cell in reversed(cells) for line in reversed(ledger.marks.warnings(cell))}
    for line, log in reversed(logs.items()):
        yield f"WARNING: {line}; {log}"


def _reason(state: CellState) -> str:
    return f": {state.why}" if state.why is not None else ""
