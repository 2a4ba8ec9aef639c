"""Which cell is whose: a small file in the recipe's folder, shared by the workers and the command that watches them."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from lmms_steer._util.io import write_atomically
from lmms_steer.recipes.cells import Cell, Marks

ENDED = ("kept", "done", "failed", "skipped")
TRIES = 2
"""How often a cell is begun whose worker dies under it."""

States = dict[str, dict[str, Any]]


class Ledger:
    """Cells and their states: open, running, kept (done before), done, failed, skipped (for one that failed).

    Args:
        root: the recipe's folder.
    """

    def __init__(self, root: Path) -> None:
        self.folder = root / ".run"
        self.marks = Marks(root)
        self._lock = FileLock(self.folder / "ledger.lock")

    def begin(self, cells: Sequence[Cell]) -> None:
        """Put all cells down as open, then say which are kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / "plan.json", json.dumps([cell.as_dict() for cell in cells]).encode())
        self._write({cell.name: {"state": "open", "tries": 0} for cell in cells})
        with self._changed() as states:
            for cell in cells:
                self._settle(cell, states)

    @property
    def cells(self) -> list[Cell]:
        """As they were planned."""
        plan = json.loads((self.folder / "plan.json").read_text(encoding="utf-8"))
        return [Cell.from_dict(data) for data in plan]

    def states(self) -> States:
        """Name ▸ state, why, seconds."""
        found: States = json.loads((self.folder / "ledger.json").read_text(encoding="utf-8"))
        return found

    def over(self) -> bool:
        return all(state["state"] in ENDED for state in self.states().values())

    def take(self, worker: int, cells: Sequence[Cell]) -> Cell | None:
        """A cell for this worker: the first that is open and waits for nothing; None where there is none at present."""
        with self._changed() as states:
            for cell in cells:
                if self._settle(cell, states):
                    states[cell.name] |= {"state": "running", "worker": worker, "tries": states[cell.name]["tries"] + 1}
                    return cell
        return None

    def end(self, cell: Cell, **said: Any) -> None:
        """Its state from now on, and why."""
        with self._changed() as states:
            states[cell.name] |= said

    def worker_died(self, worker: int, cells: Sequence[Cell]) -> Iterator[str]:
        """Open its cell again, once; yields a line."""
        with self._changed() as states:
            for cell in cells:
                state = states[cell.name]
                if state["state"] == "running" and state["worker"] == worker:
                    again = state["tries"] < TRIES
                    state |= {"state": "open"} if again else {"state": "failed", "why": "its worker died twice"}
                    yield f"a worker died at {cell.name}: {'it is tried once more' if again else 'given up'}"

    def give_up(self, why: str) -> None:
        """Nothing that is open will be begun."""
        with self._changed() as states:
            for state in states.values():
                if state["state"] not in ENDED:
                    state |= {"state": "failed", "why": why}

    def _settle(self, cell: Cell, states: States) -> bool:
        """Note a cell that is done already or can never be; True: it can be begun."""
        mine, before = states[cell.name], {name: states[name]["state"] for name in cell.needs}
        lost = [name for name, state in before.items() if state in ("failed", "skipped")]
        if mine["state"] != "open":
            return False
        if lost:
            first = next((name for name in lost if before[name] == "failed"), None)
            mine |= {"state": "skipped", "why": f"needs {first or states[lost[0]]['why'].removeprefix('needs ')}"}
            return False
        if any(state not in ("kept", "done") for state in before.values()):
            return False
        if self.marks.done(cell):
            mine |= {"state": "kept"}
            return False
        return True

    @contextmanager
    def _changed(self) -> Iterator[States]:
        with self._lock:
            states = self.states()
            yield states
            self._write(states)

    def _write(self, states: States) -> None:
        write_atomically(self.folder / "ledger.json", json.dumps(states, indent=1).encode())
