"""The ledger of a run: the state of every cell, in one file that the workers and the watching command share."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from lmms_steer._util.io import write_atomically
from lmms_steer.errors import UserError
from lmms_steer.recipes.cells import Cell, Marks

ENDED = ("kept", "done", "failed", "skipped")
MAX_TRIES = 2
"""How often a cell is started whose worker dies while it runs."""


@dataclass(frozen=True, slots=True)
class CellState:
    """The state of one cell in this run.

    Attributes:
        state: open, running, kept (done by an earlier run), done, failed, or skipped (it needs a cell that failed).
        tries: how often the cell was started.
        worker: number of the worker that started it last.
        why: one line on why it failed or was skipped.
        seconds: duration of its run.
    """

    state: str = "open"
    tries: int = 0
    worker: int | None = None
    why: str | None = None
    seconds: float | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the cell's state is final for this run."""
        return self.state in ENDED

    @property
    def has_output(self) -> bool:
        """Whether the cell is done, by this run or an earlier one."""
        return self.state in ("kept", "done")


States = dict[str, CellState]
"""States by the names of the cells."""
_STATE_FIELDS = frozenset(field.name for field in fields(CellState))


class Ledger:
    """The cells of a run and their states, in the folder `.run` of the recipe's folder.

    Args:
        root: the recipe's folder.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / ".run"
        self.marks = Marks(root)
        self._lock = FileLock(self.folder / "ledger.lock")
        self._content, self._states = b"", States()

    def begin(self, cells: Sequence[Cell]) -> None:
        """Write down all cells as open, then mark those that are done as kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "plan.json", json.dumps([cell.as_dict() for cell in cells]).encode())
        write_atomically(_spelling(self.folder.parent), str(self.folder.parent).encode())
        self._write({cell.name: CellState() for cell in cells})
        with self._changed() as states:
            for cell in cells:
                self._settle(cell, states)

    @property
    def cells(self) -> list[Cell]:
        """The cells in the order of the plan."""
        plan = json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
        return [Cell.from_dict(data) for data in plan]

    def states(self) -> States:
        """The current states of all cells."""
        content = (self.folder / "ledger.json").read_bytes()
        # it is looked at several times a second, and a large one takes long to parse
        if content != self._content:
            data: dict[str, dict[str, Any]] = json.loads(content)
            self._content, self._states = content, _parse_states(data)
        return dict(self._states)

    def over(self) -> bool:
        """Whether every cell has ended."""
        return all(state.has_ended for state in self.states().values())

    def take(self, worker: int, cells: Sequence[Cell]) -> Cell | None:
        """Give a worker the first open cell that waits for nothing; None where there is none at present."""
        with self._changed() as states:
            for cell in cells:
                if self._settle(cell, states):
                    states[cell.name] = CellState("running", states[cell.name].tries + 1, worker)
                    return cell
        return None

    def end(self, cell: Cell, state: str, why: str | None, seconds: float | None) -> None:
        """Write down how a cell ended."""
        with self._changed() as states:
            states[cell.name] = replace(states[cell.name], state=state, why=why, seconds=seconds)

    def worker_died(self, worker: int, cells: Sequence[Cell]) -> Iterator[str]:
        """Reopen the cell that a dead worker was running, or give it up after `MAX_TRIES`; yields a line for it."""
        with self._changed() as states:
            for cell in cells:
                state = states[cell.name]
                if state.state == "running" and state.worker == worker:
                    again = state.tries < MAX_TRIES
                    given_up = replace(state, state="failed", why=f"its worker died {MAX_TRIES} times")
                    states[cell.name] = replace(state, state="open") if again else given_up
                    yield f"a worker died at {cell.name}: {'it is tried again' if again else 'given up'}"

    def reopen(self, worker: int) -> None:
        """Reopen the cell that this worker was running when SLURM requeued its job.

        That is not counted as a try: SLURM requeues jobs for its own reasons (a lost node, a job of higher priority).
        """
        with self._changed() as states:
            for name, state in states.items():
                if state.state == "running" and state.worker == worker:
                    states[name] = replace(state, state="open", tries=state.tries - 1)

    def give_up(self, why: str) -> None:
        """Mark every cell that has not ended as failed."""
        with self._changed() as states:
            for name, state in states.items():
                if not state.has_ended:
                    states[name] = replace(state, state="failed", why=why)

    def _settle(self, cell: Cell, states: States) -> bool:
        """Mark a cell as kept or skipped where that is due; returns whether it can be started."""
        state = states[cell.name]
        if state.state != "open":
            return False
        before = {name: states[name] for name in cell.needs}
        lost = [name for name, needed in before.items() if needed.state in ("failed", "skipped")]
        if lost:
            failed = next((name for name in lost if before[name].state == "failed"), None)
            # a skipped cell names the failed cell that it needed itself
            cause = failed or (before[lost[0]].why or "").removeprefix("needs ")
            states[cell.name] = replace(state, state="skipped", why=f"needs {cause}")
            return False
        if not all(needed.has_output for needed in before.values()):
            return False
        if self.marks.done(cell):
            states[cell.name] = replace(state, state="kept")
            return False
        return True

    @contextmanager
    def _changed(self) -> Iterator[States]:
        """The states under the ledger's lock; changes to the dictionary are written at the end."""
        with self._lock:
            states = self.states()
            yield states
            self._write(states)

    def _write(self, states: States) -> None:
        data = {
            name: {key: value for key, value in asdict(state).items() if value is not None}
            for name, state in states.items()
        }
        write_atomically(self.folder / "ledger.json", json.dumps(data, indent=1).encode())


def as_before(root: Path) -> Path:
    """A recipe's folder as the run before spelled it: the commands of its cells, and so their marks, have that path.

    Args:
        root: the folder as it was typed now, say as an absolute path.

    Raises:
        UserError: where that path was relative to another working folder: there, all cells would run again.
    """
    try:
        before = Path(_spelling(root).read_text(encoding="utf-8"))
        if before.exists() and before.samefile(root):
            return before
    except (OSError, ValueError):
        return root
    parts, own = before.parts, root.resolve().parts
    if parts and own[-len(parts) :] == parts:
        raise UserError(
            f"{root} was begun in {Path(*own[: -len(parts)])} as {before}, and its commands name files by that path:"
            " start the recipe there, or choose another --output"
        )
    return root


def _spelling(root: Path) -> Path:
    return root / ".run" / "folder"


def _parse_states(data: dict[str, dict[str, Any]]) -> States:
    return {
        name: CellState(**{key: entry[key] for key in _STATE_FIELDS & entry.keys()}) for name, entry in data.items()
    }
