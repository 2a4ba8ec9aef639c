"""What a search tries: read from the command line, checked before anything is loaded, written beside its results."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from lmms_steer.errors import UserError
from lmms_steer.files import write_atomically

FEW = 30
PLAN = "plan.json"


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
        if not same(folder, asdict(self)):
            write_atomically(folder / PLAN, json.dumps(asdict(self), indent=1).encode())


def same(folder: Path, mine: Mapping[str, Any]) -> bool:
    """Whether a folder holds a study; it is then one whose plan says what `mine` says of it.

    Args:
        folder: of the study.
        mine: keys of a plan, or some of them; `vectors` may be their names alone.

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
    for key, value in json.loads(json.dumps(mine)).items():
        found = theirs.get(key)
        if isinstance(value, list) and isinstance(found, dict):
            found = list(found)
        if found != value:
            raise UserError(f"{str(folder)!r} is the study of another search: its {key} is {found!r}, not {value!r}")
    return True
