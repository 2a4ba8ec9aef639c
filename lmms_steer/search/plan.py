"""What a search tries: read from the command line, checked before anything is loaded, written beside its results."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from lmms_steer._util.io import write_atomically
from lmms_steer.errors import UserError

FEW = 30
PLAN = "plan.json"
SHA = 8
"""Of so many letters of a hash a message tells."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One setting of one vector. `vector`: its name, with `control=…` behind it for a control of it."""

    vector: str
    layer: int
    alpha: float
    tokens: str


@dataclass(frozen=True, slots=True)
class Plan:
    """A search.

    Attributes:
        model: `--model`.
        model_args: of the unsteered model.
        vectors: name ▸ sha256; the user's and their controls.
        task: of lmms-eval.
        n: questions.
        questions: sha256 of them.
        layers, alphas, tokens: the grid.
        batch_size: questions a base pass.
        strategy: grid, race, screen, race+screen or tpe.
        score: letters or generate.
        trials: of each vector, where the strategy is tpe.
        seed: of the order in which questions are asked, and of tpe.
    """

    model: str
    model_args: str
    vectors: dict[str, str]
    task: str
    n: int
    questions: str
    layers: tuple[int, ...]
    alphas: tuple[float, ...]
    tokens: tuple[str, ...]
    batch_size: int
    strategy: str
    score: str
    trials: int
    seed: int

    def cells(self, last_layer: int) -> list[Cell]:
        """All settings; at image tokens of the last layer nothing reaches the answer any more: left out."""
        grid = product(self.vectors, self.layers, self.alphas, self.tokens)
        return [Cell(*cell) for cell in grid if not (cell[1] == last_layer and cell[3] == "image")]

    @property
    def own(self) -> list[str]:
        """The user's vectors, without their controls."""
        return [name for name in self.vectors if ",control=" not in name]

    def controls_of(self, name: str) -> dict[str, str]:
        """A vector's controls, `random:0`, …, and as cells name them: `spatial,control=random:0`, …"""
        parts = ((other, *other.partition(",control=")) for other in self.vectors)
        return {control: other for other, vector, _, control in parts if control and vector == name}

    def folder(self, output: Path, name: str) -> Path:
        """Where a vector's files are: the study's own folder, or one in it where there are several vectors."""
        return output / name.replace("/", "_") if len(self.own) > 1 else output

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def settle(self, folder: Path) -> None:
        """Write the plan into a study's folder, or see that the folder is of this plan.

        Raises:
            UserError: for a folder of another search; it names what differs.
        """
        if not check_same_plan(folder, asdict(self)):
            write_atomically(folder / PLAN, json.dumps(asdict(self), indent=1).encode())


def check_same_plan(folder: Path, mine: Mapping[str, Any]) -> bool:
    """Whether a folder holds a study; it is then one whose plan says what `mine` says of it.

    Args:
        folder: of the study.
        mine: keys of a plan, or some of them; `vectors` may be their names alone, or None for a
            hash that is not known yet.

    Raises:
        UserError: for a folder of another search; it names what differs.
    """
    path = folder / PLAN
    if not path.is_file():
        return False
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(path)!r} is damaged: take another folder") from error
    told = json.loads(json.dumps(mine)).items()
    differ = [line for key, value in told for line in _differing(key, theirs.get(key), value)]
    if differ:
        raise UserError(f"{str(folder)!r} is the study of another search: {'; '.join(differ)}: take another --output")
    return True


def _differing(key: str, theirs: Any, mine: Any) -> Iterator[str]:
    """What differs, in plain words."""
    if key == "vectors":
        yield from _vectors(theirs or {}, mine if isinstance(mine, dict) else dict.fromkeys(mine))
    elif key == "questions" and theirs != mine:
        yield f"the task's questions have changed since ({_hashes(theirs, mine)})"
    elif theirs != mine:
        yield f"{'number of questions' if key == 'n' else f'--{key}'} {_plain(theirs)} there, {_plain(mine)} here"


def _vectors(theirs: Mapping[str, str], mine: Mapping[str, str | None]) -> Iterator[str]:
    """A control changes with its vector, which alone is named then."""
    own = [[name for name in names if ",control=" not in name] for names in (theirs, mine)]
    changed = [name for name in mine if name in theirs and mine[name] not in (None, theirs[name])]
    if own[0] != own[1]:
        yield f"--vector {_plain(own[0])} there, {_plain(own[1])} here"
    elif list(theirs) != list(mine):
        there, here = (len(names) // len(own[0]) - 1 for names in (theirs, mine))
        yield f"--controls {there} there, {here} here"
    elif changed:
        name = changed[0]
        yield f"the vector {name} has changed since ({_hashes(theirs[name], mine[name])})"


def _hashes(theirs: str | None, mine: str | None) -> str:
    return f"sha {str(theirs)[:SHA]}… ▸ {str(mine)[:SHA]}…"


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
