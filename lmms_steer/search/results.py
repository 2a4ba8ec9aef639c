"""What a search finds, as typed values, and their form in `result.json`.

Accuracies, gains and intervals are shares (0.01 is a point). Only this module knows the keys of the file. Version 2 has
the keys of version 1, whose files carry no `version`, so that readers of either see the same.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from lmms_steer._util.formatting import count_noun, format_p, format_points
from lmms_steer._util.io import write_atomically
from lmms_steer._util.json import read_json
from lmms_steer.errors import UserError, shorten

RESULT_FILE = "result.json"
VERSION = 2
_OPTIONAL = ("unparsed", "kl", "baseline_unparsed", "images", "calibrated", "confirmed", "blank")
"""Keys that the file leaves out where there is nothing to say."""


@dataclass(frozen=True, slots=True)
class Gain:
    """A paired comparison with the baseline on the same questions.

    Attributes:
        accuracy: mean score.
        gain: difference from the baseline's mean score.
        low, high: 95% interval of the gain; infinite where all questions show one image, which the file has as null.
        p: two-sided p-value of this difference taken alone.
        fixed, broken: number of questions whose score rose and fell.
    """

    accuracy: float
    gain: float
    low: float
    high: float
    p: float
    fixed: int
    broken: int


@dataclass(frozen=True, slots=True)
class CellResult(Gain):
    """A cell and what it gains.

    Attributes:
        layer, alpha, tokens: the cell.
        unparsed: the share of its answers that could not be read; None where that is unknown.
        kl: its damage: mean KL(unsteered || steered) in nats at the token that decides; None where it is unknown.
    """

    layer: int
    alpha: float
    tokens: str
    unparsed: float | None = None
    kl: float | None = None


@dataclass(frozen=True, slots=True, repr=False)
class VectorResult:
    """What was found for one of the user's vectors.

    Attributes:
        best: the cell with the highest accuracy.
        p_corrected: p-value of its gain, corrected for all cells that were tried (max-T).
        winner: whether the gain is positive and `p_corrected` below the level.
        cells_tried: number of cells.
        finalists: number of cells that were measured on all questions.
        counted_on: number of questions that `p_corrected` is computed on.
        one_standard_error: the cell with the smallest |alpha| within one standard error of the best.
        controls: control ▸ its best cell, found in the same way.
        discordant: the median, over the finalists, of the share of questions whose answer changes between right and
            wrong; None where that is unknown, and for graded scores.
        counted_gain: the best cell's gain on the questions that `p_corrected` is computed on; None where these are all
            questions or none, and in files of older versions.
        targets: token target ▸ the same for the cells of this target alone; empty where one cell was chosen of all.
    """

    best: CellResult
    p_corrected: float
    winner: bool
    cells_tried: int
    finalists: int
    counted_on: int
    one_standard_error: CellResult
    controls: Mapping[str, CellResult]
    targets: Mapping[str, "VectorResult"] = field(default_factory=dict)
    discordant: float | None = None
    counted_gain: float | None = None

    def __repr__(self) -> str:
        best = self.best
        cell = f"layer={best.layer},alpha={best.alpha:g},tokens={best.tokens}"
        verdict = "winner" if self.winner else "no winner"
        return (
            f"VectorResult {cell}, {format_points(100 * best.gain)} points"
            f" ({verdict} of {count_noun(self.cells_tried, 'cell')}, corrected p {format_p(self.p_corrected)})"
        )


@dataclass(frozen=True, slots=True)
class CalibrationResult(Gain):
    """What answer biases gain that were fitted on the same questions.

    Attributes:
        baseline: accuracy without them, with the likeliest choice as the answer.
        scored_by: `letters`, however the cells are scored.
    """

    baseline: float
    scored_by: str = "letters"


@dataclass(frozen=True, slots=True)
class ConfirmationResult:
    """The chosen cells on other questions than those of the choice: another task's, or the same with blank images.

    Attributes:
        task: the task that the questions are of.
        n: number of its questions.
        baseline, baseline_unparsed: as in `SearchResult`.
        vectors: vector or control, by the names that cells use ▸ its chosen cell's result.
    """

    task: str
    n: int
    baseline: float
    baseline_unparsed: float | None
    vectors: Mapping[str, CellResult]


@dataclass(frozen=True, slots=True, repr=False)
class SearchResult:
    """Everything that a search finds.

    Attributes:
        n: number of questions.
        baseline: accuracy of the unsteered model.
        baseline_unparsed: the share of its answers that could not be read; None where that is unknown.
        cells: number of cells that were tried, those of controls included.
        n_images: number of images; None where no two questions share one.
        vectors: the user's vectors.
        calibrated: the answer biases; None where the answers are not of one small set of words.
        confirmed: the choices on another task; None without one.
        blank: the choices, without those of controls, on the same questions with grey images; None where that was not
            measured.
    """

    n: int
    baseline: float
    baseline_unparsed: float | None
    cells: int
    n_images: int | None
    vectors: Mapping[str, VectorResult]
    calibrated: CalibrationResult | None = None
    confirmed: ConfirmationResult | None = None
    blank: ConfirmationResult | None = None

    def __repr__(self) -> str:
        found = "; ".join(f"{name}: {repr(vector).partition(' ')[2]}" for name, vector in self.vectors.items())
        size = f"{count_noun(self.cells, 'cell')} on {count_noun(self.n, 'question')}"
        return f"SearchResult of {size}, baseline {self.baseline:.3f}; {found or 'no vectors'}"

    def with_earlier(self, earlier: "SearchResult") -> "SearchResult":
        """The same with the confirmation and the blank images of an earlier result, if they are of the same cells."""
        chosen = {name: vector.best for name, vector in self.vectors.items()}
        controls = {
            f"{name},control={control}": cell
            for name, vector in self.vectors.items()
            for control, cell in vector.controls.items()
        }
        return replace(
            self,
            confirmed=earlier.confirmed if _are_of(earlier.confirmed, {**chosen, **controls}) else None,
            blank=earlier.blank if _are_of(earlier.blank, chosen) else None,
        )

    def to_json(self) -> dict[str, Any]:
        """The content of `result.json`."""
        data = {"version": VERSION} | {
            "images" if key == "n_images" else key: value for key, value in asdict(self).items()
        }
        data["vectors"] = {name: _vector_to_json(vector) for name, vector in self.vectors.items()}
        if self.calibrated is not None:
            data["calibrated"] = _ordered(self.calibrated, "scored_by", "baseline")
        for key, again in (("confirmed", self.confirmed), ("blank", self.blank)):
            if again is not None:
                data[key] = _ordered(again)
                data[key]["vectors"] = {k: _cell_to_json(v) for k, v in again.vectors.items()}
        return _without_unknown(data)

    @classmethod
    def from_json(cls, data: Any) -> "SearchResult":
        """Read the content of `result.json`, of this version or of the one before.

        Raises:
            UserError: for a version that is not known, or content that is no search's result.
        """
        if not isinstance(data, Mapping):
            raise UserError(f"{RESULT_FILE} is not the result of a search: expected an object")
        version = data.get("version", 1)
        if version not in (1, VERSION):
            raise UserError(f"{RESULT_FILE} has version {version!r}: this lmms-steer reads 1 and {VERSION}")
        try:
            return cls(
                n=_number(data["n"]),
                baseline=_number(data["baseline"]),
                baseline_unparsed=data.get("baseline_unparsed"),
                cells=data["cells"],
                n_images=data.get("images"),
                vectors={name: _vector_from_json(vector) for name, vector in data["vectors"].items()},
                calibrated=_gain(CalibrationResult, data["calibrated"]) if data.get("calibrated") else None,
                confirmed=_confirmation_from_json(data["confirmed"]) if data.get("confirmed") else None,
                blank=_confirmation_from_json(data["blank"]) if data.get("blank") else None,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{RESULT_FILE} is not the result of a search: {error!r}") from error

    def write(self, folder: Path) -> None:
        """Write `result.json` into a study's folder."""
        write_atomically(folder / RESULT_FILE, json.dumps(self.to_json(), indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> "SearchResult":
        """Read `result.json` from a study's folder.

        Raises:
            UserError: for a file that is missing, damaged or of an unknown version.
        """
        path = folder / RESULT_FILE
        try:
            data = read_json(path)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {str(path)!r}: is the search finished?") from error
        return cls.from_json(data)


def _are_of(again: ConfirmationResult | None, chosen: Mapping[str, CellResult]) -> bool:
    """Whether cells were measured again that are the chosen ones."""
    places = [
        {name: (cell.layer, cell.alpha, cell.tokens) for name, cell in cells.items()}
        for cells in (again.vectors if again is not None else {}, chosen)
    ]
    return places[0] == places[1]


def _ordered(value: "CellResult | CalibrationResult | ConfirmationResult", *first: str) -> dict[str, Any]:
    """A value as a mapping without unknown entries; some keys before the others, for readers of the file."""
    # JSON has no infinity
    data = {key: None if key in _INFINITE and math.isinf(one) else one for key, one in asdict(value).items()}
    return _without_unknown({key: data[key] for key in first} | data)


def _cell_to_json(cell: CellResult) -> dict[str, Any]:
    return _ordered(cell, "layer", "alpha", "tokens")


def _without_unknown(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if not (key in _OPTIONAL and value is None)}


G = TypeVar("G", bound=Gain)
_INFINITE = {"low": -math.inf, "high": math.inf}
"""Ends of an interval, and what null means."""
_BEST_KEYS = ("p_corrected", "winner", "cells_tried", "finalists", "counted_on")
"""Attributes of a vector that the file keeps with its best cell."""
_OPTIONAL_NUMBERS = ("discordant", "counted_gain")
"""Attributes of a vector that the file leaves out where they are None."""


def _vector_to_json(vector: VectorResult) -> dict[str, Any]:
    about_best = {key: getattr(vector, key) for key in _BEST_KEYS}
    targets = {name: _vector_to_json(target) for name, target in vector.targets.items()}
    return {
        "best": _cell_to_json(vector.best) | about_best,
        "one_standard_error": _cell_to_json(vector.one_standard_error),
        "controls": {name: _cell_to_json(cell) for name, cell in vector.controls.items()},
        **{key: value for key in _OPTIONAL_NUMBERS if (value := getattr(vector, key)) is not None},
        **({"targets": targets} if targets else {}),
    }


def _number(value: Any) -> Any:
    """
    Raises:
        TypeError: for anything but a number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{shorten(repr(value))} is not a number")
    return value


def _gain(kind: type[G], data: Mapping[str, Any]) -> G:
    """A gain from JSON, whose numbers are numbers.

    Raises:
        TypeError: for other keys or values.
    """
    made = kind(**{**data, **{key: end for key, end in _INFINITE.items() if data.get(key, end) is None}})
    for one in fields(made):
        value = getattr(made, one.name)
        if one.name in ("tokens", "scored_by"):
            if not isinstance(value, str):
                raise TypeError(f"{one.name} is {shorten(repr(value))}")
        elif value is not None:
            _number(value)
    return made


def _vector_from_json(data: Mapping[str, Any], of_target: bool = False) -> VectorResult:
    # a target has no targets of its own, whatever its file says
    listed = {} if of_target else data.get("targets") or {}
    targets = {name: _vector_from_json(target, of_target=True) for name, target in listed.items()}
    best = dict(data["best"])
    about_best = {key: best.pop(key) for key in _BEST_KEYS}
    return VectorResult(
        best=_gain(CellResult, best),
        one_standard_error=_gain(CellResult, data["one_standard_error"]),
        controls={name: _gain(CellResult, cell) for name, cell in data["controls"].items()},
        targets=targets,
        **{key: _number(data[key]) for key in _OPTIONAL_NUMBERS if data.get(key) is not None},
        **about_best,
    )


def _confirmation_from_json(data: Mapping[str, Any]) -> ConfirmationResult:
    cells = {name: _gain(CellResult, cell) for name, cell in data["vectors"].items()}
    return ConfirmationResult(data["task"], data["n"], data["baseline"], data.get("baseline_unparsed"), cells)
