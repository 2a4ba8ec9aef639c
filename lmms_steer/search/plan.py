"""What a search tries: read from the command line, checked before anything is loaded, written beside its results."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from lmms_steer.errors import UserError, unknown
from lmms_steer.vectors import write_atomically

TOKENS = ("image", "text", "both")
FEW = 30


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
        layers, alphas, tokens: the grid.
        batch_size: questions a base pass; what is held in memory is this many, times layers x positions x width.
    """

    model: str
    model_args: str
    vectors: dict[str, str]
    task: str
    n: int
    layers: tuple[int, ...]
    alphas: tuple[float, ...]
    tokens: tuple[str, ...]
    batch_size: int

    def cells(self, last_layer: int) -> list[Cell]:
        """All settings; at image tokens of the last layer nothing reaches the answer any more: left out."""
        grid = product(self.vectors, self.layers, self.alphas, self.tokens)
        return [Cell(*cell) for cell in grid if not (cell[1] == last_layer and cell[3] == "image")]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def settle(self, folder: Path) -> None:
        """Write the plan into a study's folder, or see that the folder is of this plan.

        Raises:
            UserError: for a folder of another search; it names what differs.
        """
        path = folder / "plan.json"
        mine: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if path.is_file():
            try:
                theirs = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise UserError(f"{str(path)!r} is damaged: take another folder") from error
            for key, value in mine.items():
                if theirs.get(key) != value:
                    other = f"its {key} is {theirs.get(key)!r}, not {value!r}"
                    raise UserError(f"{str(folder)!r} is the study of another search: {other}")
            return
        write_atomically(path, json.dumps(mine, indent=1).encode())


def layer_range(text: str, n_layers: int) -> tuple[int, ...]:
    """`5-20`, `3`, `0-8:2`, `1,4,7` ▸ layers.

    Raises:
        UserError: for anything else, or layers that the model has not.
    """
    layers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+)(?::(\d+))?)?\s*", part)
        if match is None or (match[3] and int(match[3]) == 0):
            raise UserError(f"--layers {text}: expected layers such as 5-20, 0-24:4 or 3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        layers += range(first, last + 1, int(match[3] or 1))
    if not layers or max(layers) >= n_layers:
        raise UserError(f"--layers {text}: the model has the layers 0-{n_layers - 1}")
    return tuple(dict.fromkeys(layers))


def alpha_range(text: str) -> tuple[float, ...]:
    """`0.1:1.0:0.1` (first:last:step) or `0.5,1,2` ▸ strengths.

    Raises:
        UserError: for anything else, or nothing but 0.
    """
    try:
        if ":" in text:
            first, last, step = map(float, text.split(":"))
            count = int((last - first) / step + 1e-9) + 1
            alphas = [round(first + i * step, 10) for i in range(count)]
        else:
            alphas = [float(part) for part in text.split(",")]
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(f"--alphas {text}: expected first:last:step, as in 0.1:1.0:0.1, or a list") from error
    acting = tuple(dict.fromkeys(alpha for alpha in alphas if alpha != 0))
    if not acting:
        raise UserError(f"--alphas {text}: a strength of 0 is the baseline, there is nothing to search")
    return acting


def token_targets(text: str) -> tuple[str, ...]:
    """`image,text,both` ▸ targets.

    Raises:
        UserError: for a target that a search does not take.
    """
    targets = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for target in targets:
        if target not in TOKENS:
            raise unknown("token target", target, TOKENS)
    return targets


def refuse_test(task: str, split: str, known: bool) -> None:
    """Choosing on the questions that a result is then reported on makes the result worthless.

    Raises:
        UserError: for a task of a test split, unless the user says that it is known.
    """
    held_out = re.search(r"(?:^|_)select(?:_|$)", task) is not None
    if not known and not held_out and ("test" in split.lower() or re.search(r"(?:^|_)test(?:_|$)", task)):
        raise UserError(
            f"{task} asks the split {split!r}: choose on held-out questions (…_select), or say --i-know-this-is-test"
        )
