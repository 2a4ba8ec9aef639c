"""What a search tries: its cells, and the plan that is stored with its results."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from lmms_steer._util.io import put_aside, write_atomically
from lmms_steer._util.json import read_json
from lmms_steer.errors import UserError, reason
from lmms_steer.steering.budget_text import is_budget, read_budget
from lmms_steer.steering.placeholders import MEDIA

MIN_QUESTIONS = 2
"""Fewer questions than this have no spread."""
FEW_QUESTIONS = 30
"""Fewer questions than this get a warning about the width of the interval."""
PLAN_FILE = "plan.json"
LMMS_EVAL, LM_EVAL = "lmms-eval", "lm-eval"
HARNESSES = (LMMS_EVAL, LM_EVAL)
"""The harnesses whose tasks can be searched on."""
_ADDED = {
    "harness": LMMS_EVAL, "metric": None, "split": None, "num_fewshot": None, "spec": "", "gate": None, "writing": "",
    "weights": None, "code": None,
}  # fmt: skip
"""Keys that files of older versions do not have, and their defaults."""
_MAY_BE_UNKNOWN = {
    "weights": "the checkpoint's weights",
    "writing": "the task's settings for written texts",
    "code": "the functions of your own",
}
"""Keys that one of two plans may not know, and what they are about. They are then not compared."""
BUDGET_PROMPTS = 64
"""So many of a study's first questions, without their answers, are the prompts that a budget is resolved on."""
SHOWN_HASH = 8
"""How many characters of a hash messages show."""
_DECIDE_QUESTIONS = ("model", "task", "n", "seed", "harness", "split", "num_fewshot")
"""The keys of a plan that decide which questions are asked, and in which order."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One setting of one vector. `vector` is its name, followed by `,control=…` for a control of it."""

    vector: str
    layer: int
    alpha: float
    tokens: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that determines a search's results.

    Attributes:
        model: the wrapper, as `--model` names it.
        model_args: arguments of the unsteered model.
        vectors: name ▸ sha256; the user's vectors and their controls.
        task: the task.
        n: number of questions.
        questions: sha256 of the questions.
        layers, alphas, tokens: the grid. Alphas are numbers, or KL budgets such as `kl:0.1`.
        batch_size: questions in one base pass.
        strategy: the strategy's name, with its filter (`race+screen`).
        score: `letters`, `generate` or `likelihood`.
        trials: trials of each vector, for strategies that propose cells.
        seed: seed of the questions' order and of the strategy.
        harness: `lmms-eval` or `lm-eval`, whose task it is.
        metric, split, num_fewshot: as the user chose them; None for the task's own.
        spec: keys that all cells share.
        gate: sha256 of the vector that a gate names; None where it names none.
        writing: the task's settings for written text and the score of it, as JSON; "" where none is written.
        weights: sha256 of the checkpoint's weights; None for one that ships, or where it is not known.
        code: sha256 of the user's own code of an operation, a site, a gate, a prompt format and a task's scores; None
            without any.
    """

    model: str
    model_args: str
    vectors: dict[str, str]
    task: str
    n: int
    questions: str
    layers: tuple[int, ...]
    alphas: tuple[float, ...] | tuple[str, ...]
    tokens: tuple[str, ...]
    batch_size: int
    strategy: str
    score: str
    trials: int
    seed: int
    harness: str = LMMS_EVAL
    metric: str | None = None
    split: str | None = None
    num_fewshot: int | None = None
    spec: str = ""
    gate: str | None = None
    writing: str = ""
    weights: str | None = None
    code: str | None = None

    @property
    def budgets(self) -> tuple[float, ...]:
        """The KL budgets in nats; empty where alphas are numbers."""
        return tuple(read_budget(alpha) for alpha in self.alphas if is_budget(alpha))

    def cells(self, useless_for_images: int | None) -> list[Cell]:
        """The whole grid, without the last layer for images, videos and audio where it cannot reach the answer.

        With KL budgets, each stands in the place of the alpha that it will be resolved to.

        Args:
            useless_for_images: that layer; None where there is none.
        """
        strengths = self.budgets or tuple(map(float, self.alphas))
        grid = product(self.vectors, self.layers, strengths, self.tokens)
        return [Cell(*cell) for cell in grid if not (cell[1] == useless_for_images and cell[3] in MEDIA)]

    @property
    def user_vectors(self) -> list[str]:
        """The user's vectors, without their controls."""
        return _user_vectors(self.vectors)

    def controls_of(self, name: str) -> dict[str, str]:
        """A vector's controls by their own names: `random:0` ▸ `spatial,control=random:0`, …"""
        parts = ((other, *split_control(other)) for other in self.vectors)
        return {control: other for other, vector, control in parts if control is not None and vector == name}

    def folder(self, output: Path, name: str) -> Path:
        """Where a vector's files are."""
        return vector_folder(output, name, len(self.user_vectors))

    def to_json(self) -> dict[str, Any]:
        """The content of the plan's file, without later additions to it that are at their defaults."""
        return {key: value for key, value in asdict(self).items() if key not in _ADDED or value != _ADDED[key]}

    @property
    def sha256(self) -> str:
        """Hash of the whole plan."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def write_or_check(self, folder: Path) -> "Plan":
        """Write the plan into a new study's folder, or check that the folder belongs to this plan.

        Returns:
            the plan to go on with. What this study did not know when it began stays unknown: its batches name the plan
            of that time.

        Raises:
            UserError: for the folder of another search; the message names what differs.
        """
        if check_same_plan(folder, asdict(self)):
            begun = read_json(folder / PLAN_FILE)
            kept = {key: begun.get(key, _ADDED[key]) for key in _unknown_keys(begun, asdict(self))}
            return replace(self, **kept)
        self._check_batches(folder)
        write_atomically(folder / PLAN_FILE, json.dumps(self.to_json(), indent=1).encode())
        return self

    def unknown_of(self, begun: "Plan") -> str:
        """What cannot be compared with the plan that a study began with, in plain words; empty where nothing is."""
        differing = (name for key, name in _MAY_BE_UNKNOWN.items() if getattr(self, key) != getattr(begun, key))
        return " and ".join(differing)

    def _check_batches(self, folder: Path) -> None:
        """Check that the batches in a folder whose plan was damaged are this plan's."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        for path in sorted(folder.rglob("batches/*.parquet")):
            try:
                metadata = pq.read_schema(path).metadata or {}
            except (OSError, pa.ArrowInvalid):
                # damaged, too: put aside when it is read
                continue
            if metadata.get(b"plan") != self.sha256.encode():
                raise UserError(f"{str(path)!r} is of another search, or of an older version: take another --output")


def vector_folder(output: Path, name: str, vectors: int) -> Path:
    """Where the files of a search's vector are: the study's folder, or a folder in it if there are several vectors."""
    return output / name.replace("/", "_") if vectors > 1 else output


def plan_hashes(folder: Path) -> dict[str, str]:
    """The hash of each vector and control of a study, by its name.

    Raises:
        UserError: for a plan that cannot be read.
    """
    path = folder / PLAN_FILE
    try:
        return dict(read_json(path)["vectors"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"cannot read {str(path)!r}: {reason(error)}") from error


def split_control(name: str) -> tuple[str, str | None]:
    """Split a name that cells use: `spatial,control=random:0` ▸ `spatial` and `random:0`; `spatial` and None."""
    vector, _, control = name.partition(",control=")
    return vector, control or None


def check_same_plan(folder: Path, mine: Mapping[str, Any]) -> bool:
    """Check that a study's folder belongs to this search.

    Args:
        folder: the study's folder.
        mine: a plan, or some of its keys. `vectors` may be a list of names, or map names to None where a hash is not
            known yet.

    Returns:
        whether the folder holds a study at all. A damaged plan is put aside: the batches name the plan that they
        belong to.

    Raises:
        UserError: for the folder of another search; the message names what differs.
    """
    differences = plan_differences(folder, mine)
    if differences:
        listed = "; ".join(differences)
        raise UserError(f"{str(folder)!r} is the study of another search: {listed}: take another --output")
    return differences is not None


def plan_differences(folder: Path, mine: Mapping[str, Any]) -> list[str] | None:
    """Everything in which this search differs from the one that a folder belongs to; None where it holds no study.

    Args:
        folder, mine: as for `check_same_plan`.

    Raises:
        UserError: for a plan that cannot be read.
    """
    path = folder / PLAN_FILE
    if not path.is_file():
        return None
    try:
        theirs = read_json(path)
        if not isinstance(theirs, dict) or not isinstance(theirs.get("vectors") or {}, dict):
            raise ValueError("it is not an object with the vectors' hashes")
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {reason(error)}") from error
    except ValueError as error:
        put_aside(path, error)
        return None
    as_stored = json.loads(json.dumps(mine))
    # other questions, or the same in another order, have another hash, which then says nothing more
    unknown = _unknown_keys(theirs, as_stored)
    theirs = {**_ADDED, **theirs}
    changed = {key for key, value in as_stored.items() if value != theirs.get(key)}
    explained = {"questions"} if changed & set(_DECIDE_QUESTIONS) else set()
    # the score decides whether texts are written, so that a difference in score explains one in these settings
    explained |= {"writing"} if "score" in changed else set()
    keys = [key for key in as_stored if key not in explained | unknown]
    return [line for key in keys for line in _differences(key, theirs.get(key), as_stored[key])]


def _unknown_keys(stored: Mapping[str, Any], mine: Mapping[str, Any]) -> set[str]:
    """The keys that a stored plan, or this one, does not know."""
    unknown = {key for key in ("weights", "code") if None in (stored.get(key), mine.get(key))}
    # versions that recorded no settings did not apply the filters of lmms-eval's tasks
    filters = mine.get("harness") == LMMS_EVAL and '"filter_list"' in mine.get("writing", "")
    return unknown if "writing" in stored or filters else unknown | {"writing"}


def _differences(key: str, theirs: Any, mine: Any) -> Iterator[str]:
    """How one key of two plans differs, in plain words."""
    if key == "vectors":
        yield from _vector_differences(theirs or {}, mine if isinstance(mine, dict) else dict.fromkeys(mine))
    elif key == "questions" and theirs != mine:
        yield f"the task's questions have changed since ({_hashes(theirs, mine)})"
    elif key == "gate" and theirs != mine:
        yield f"the gate's vector is another one ({_hashes(theirs, mine)})"
    elif key == "weights" and theirs != mine:
        yield f"the checkpoint's weights are other ones ({_hashes(theirs, mine)})"
    elif key == "code" and theirs != mine:
        yield (
            "the code of an operation, a site, a gate, a prompt format or a task of your own has changed since"
            f" ({_hashes(theirs, mine)})"
        )
    elif key == "writing" and theirs != mine:
        yield f"the task writes and scores texts with {theirs or 'nothing'} there, {mine or 'nothing'} here"
    elif theirs != mine:
        option = "number of questions" if key == "n" else f"--{key}"
        write = _ranges if key == "layers" else _plain
        yield f"{option} {write(theirs)} there, {write(mine)} here"


def _vector_differences(theirs: Mapping[str, str], mine: Mapping[str, str | None]) -> Iterator[str]:
    """How the vectors differ. A control changes with its vector, so only the vector is named."""
    own = [_user_vectors(names) for names in (theirs, mine)]
    controls = [len(names) // max(1, len(users)) - 1 for names, users in zip((theirs, mine), own, strict=True)]
    changed = [name for name in mine if name in theirs and mine[name] not in (None, theirs[name])]
    if own[0] != own[1]:
        yield f"--vector {_plain(own[0])} there, {_plain(own[1])} here"
    if controls[0] != controls[1]:
        yield f"--controls {controls[0]} there, {controls[1]} here"
    for name in _user_vectors(changed) or changed[:1]:
        yield f"the vector {name} has changed since ({_hashes(theirs[name], mine[name])})"


def _user_vectors(names: Iterable[str]) -> list[str]:
    return [name for name in names if split_control(name)[1] is None]


def _hashes(theirs: str | None, mine: str | None) -> str:
    return f"sha {str(theirs)[:SHOWN_HASH]}… ▸ {str(mine)[:SHOWN_HASH]}…"


def _ranges(layers: Any) -> str:
    """Layers, as `--layers` takes them: `0-3,7`."""
    runs: list[list[int]] = []
    for layer in layers if isinstance(layers, list) else []:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"
