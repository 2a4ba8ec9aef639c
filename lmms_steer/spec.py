"""What to add, where, how strongly and to which tokens: a value that round-trips to one line.

    vector=spatial,layer=3,alpha=0.5,tokens=image

Several interventions stand in one line with `; ` between them, or in a YAML file (`SteeringSpec.from_yaml`).
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from lmms_steer.controls import parse as parse_control
from lmms_steer.errors import UserError, one_line, unknown

TOKENS = ("image", "text", "both", "last", "text_paper", "both_paper")
PHASES = ("prefill", "decode", "all")
OPERATIONS = ("add", "norm_preserving", "clamp", "ablate", "rotate")
SCALES = ("raw", "unit", "relative")
_WITHOUT_LENGTH = ("ablate", "rotate")
"""Operations in which the vector's length plays no part."""

_PAIR = re.compile(r'\s*(\w+)\s*=\s*("(?:[^"\\]|\\.)*"|[^,;"]*)\s*([,;]|$)')
_PLAIN = re.compile(r'[^,;"=\s]+')


@dataclass(frozen=True, slots=True)
class Intervention:
    """One vector added at one layer: `h' = h + alpha * v` at the chosen prompt positions (the paper's equation).

    `layer`, `alpha` and `tokens` may be None, "not said": they are then filled from the choice that is stored beside
    the vector for this model, if it is for all else that is said, or from the defaults in `lmms_steer.resolve`. Only a
    complete one can be attached.
    """

    vector: str
    """A store name (`spatial`, `tiny-gemma2/spatial/mean_shift`) or a path to a safetensors file."""
    layer: int | None = None
    """0-based decoder block; its output is what is changed."""
    alpha: float | None = None
    """Strength, in the units of `scale`. Any finite number; 0 leaves the model as it is, whatever the operation."""
    tokens: str | None = None
    """Which prompt positions are changed: `image`, `text`, `both`, `last` (of the prompt), or the released code's masks
    `text_paper`, `both_paper`: no special tokens, and not the last token that is none."""
    phase: str = "prefill"
    """`prefill`: the prompt only, as in the paper; `decode`: generated tokens only; `all`: both."""
    operation: str = "add"
    """`add` (the paper's), or one of `lmms_steer.intervention.operations`, where each has its formula."""
    scale: str = "raw"
    """What alpha counts: `raw`, the vector as it is stored (the paper's); `unit`, the vector of norm 1; `relative`, the
    mean norm of the residual at this layer over all of `tokens`, whatever the gammas
    (`lmms_steer.intervention.norms`)."""
    gamma_image: float = 1.0
    """A factor on alpha at image tokens (the paper's gamma_image)."""
    gamma_text: float = 1.0
    """A factor on alpha at text tokens (the paper's gamma_text)."""
    control: str | None = None
    """What to attach in the vector's place: `random[:SEED]`, `shuffled`, `wrong_concept[:CONCEPT]` (`controls.py`)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "vector", _name(self.vector))
        object.__setattr__(self, "layer", _layer(self.layer))
        object.__setattr__(self, "alpha", _alpha(self.alpha))
        for name in ("gamma_image", "gamma_text"):
            object.__setattr__(self, name, _finite(name, getattr(self, name)))
        if self.control is not None:
            parse_control(self.control)
        choices = (("tokens", TOKENS), ("phase", PHASES), ("operation", OPERATIONS), ("scale", SCALES))
        for name, known in choices:
            value = getattr(self, name)
            if value not in known and not (name == "tokens" and value is None):
                raise unknown(name, value, known)
        if self.scale != "raw" and self.operation in _WITHOUT_LENGTH:
            raise UserError(f"operation={self.operation},scale={self.scale}: the vector's length plays no part in it")
        if self.phase == "decode" and self.tokens == "image":
            raise UserError("tokens=image,phase=decode steers nothing: generated tokens are text")

    @property
    def complete(self) -> bool:
        """Whether layer, alpha and tokens are all said."""
        return None not in (self.layer, self.alpha, self.tokens)

    def __str__(self) -> str:
        said = {k: v for k, v in asdict(self).items() if v is not None and (k, v) not in _UNSAID}
        return ",".join(f"{key}={_quote(value)}" for key, value in said.items())


_UNSAID = {("phase", "prefill"), ("operation", "add"), ("scale", "raw"), ("gamma_image", 1.0), ("gamma_text", 1.0)}
FIELDS = tuple(field.name for field in fields(Intervention))
"""The keys that a spec has in model_args, in one line and in YAML."""


@dataclass(frozen=True, slots=True)
class SteeringSpec:
    """One or more interventions. An empty spec is the baseline: the model as it is.

    `provenance` is where a spec comes from (a search's study), if its file says so; it plays no part in what is done.
    """

    interventions: tuple[Intervention, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __bool__(self) -> bool:
        return bool(self.interventions)

    def __str__(self) -> str:
        return "; ".join(map(str, self.interventions))

    @property
    def complete(self) -> bool:
        return all(i.complete for i in self.interventions)

    @classmethod
    def parse(cls, line: str) -> "SteeringSpec":
        """Read the one-line form; `parse(str(spec)) == spec` for every spec."""
        groups: list[dict[str, Any]] = [{}]
        position = 0
        while position < len(line.rstrip()):
            match = _PAIR.match(line, position)
            if match is None:
                raise UserError(
                    f"cannot read the spec at {line[position:]!r}: expected key=value pairs, as in {_SHOWN}"
                )
            key, value, separator = match.groups()
            if key in groups[-1]:
                raise UserError(f"{key!r} is given twice in {line!r}: put '; ' between two interventions")
            groups[-1][key] = json.loads(value) if value.startswith('"') else value.strip()
            if separator == ";":
                groups.append({})
            position = match.end()
        return cls.from_dicts([group for group in groups if group])

    @classmethod
    def from_dicts(cls, entries: list[Mapping[str, Any]]) -> "SteeringSpec":
        """From one mapping an intervention, with the keys `FIELDS`."""
        return cls(tuple(_intervention(entry) for entry in entries))

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> "SteeringSpec":
        """From model_args: `steering`, a file; or `FIELDS`, one intervention; or none of them, the baseline."""
        given = {key: args[key] for key in FIELDS if key in args}
        steering = args.get("steering")
        if steering is None:
            return cls.from_dicts([given] if given else [])
        if given:
            raise UserError(f"steering={steering} and {', '.join(given)}: give the file or the single keys, not both")
        return cls.from_yaml(steering)

    @classmethod
    def from_yaml(cls, path: str | Path) -> "SteeringSpec":
        """From a file whose `interventions` is a list of mappings with the keys `FIELDS`, and perhaps `provenance`."""
        try:
            data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise UserError(f"cannot read the steering file {str(path)!r}: {one_line(error)}") from error
        made = data.pop("provenance", {}) if isinstance(data, dict) else {}
        entries = data.get("interventions") if isinstance(data, dict) else None
        if not isinstance(made, dict):
            raise UserError(f"{str(path)!r}: provenance is no mapping: {made!r}")
        well_made = isinstance(data, dict) and len(data) == 1
        if not well_made or not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise UserError(
                f"{str(path)!r} is no steering file: expected 'interventions:' with a list such as - {_SHOWN}"
            )
        return replace(cls.from_dicts(entries), provenance=made)

    def to_yaml(self) -> str:
        """The text of a file that `from_yaml` reads."""
        entries = [{k: v for k, v in asdict(i).items() if v is not None} for i in self.interventions]
        made = {"provenance": dict(self.provenance)} if self.provenance else {}
        return yaml.safe_dump({"interventions": entries, **made}, sort_keys=False)


_SHOWN = "vector=spatial,layer=3,alpha=0.5,tokens=image"


def _intervention(entry: Mapping[str, Any]) -> Intervention:
    for key in entry:
        if key not in FIELDS:
            raise unknown("steering key", key, FIELDS)
    if entry.get("vector") in (None, ""):
        given = ", ".join(f"{key}={value}" for key, value in entry.items())
        raise UserError(f"{given or 'a spec'} names no vector: add vector=NAME, as in {_SHOWN}")
    return Intervention(**entry)


def _quote(value: object) -> str:
    text = format(value, ".15g") if isinstance(value, float) and float(format(value, ".15g")) == value else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _name(value: object) -> str:
    # lmms-eval turns `vector=20241101` and `vector=nan` into numbers before we see them
    name = str(value).strip()
    if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":
        name = name[1:-1]
    if not name or "\n" in name:
        raise UserError(f"vector={value!r} names no vector: give a store name or a path")
    return name


def _layer(value: object) -> int | None:
    if value is None:
        return None
    number = _number(value)
    if not math.isfinite(number) or number != int(number):
        raise UserError(f"layer={value}: expected one whole number, the 0-based decoder layer")
    if number < 0:
        raise UserError(f"layer={int(number)}: layers are counted from 0 up, there are no negative ones")
    return int(number)


def _alpha(value: object) -> float | None:
    if value is None:
        return None
    return _finite("alpha", value)


def _finite(name: str, value: object) -> float:
    number = _number(value)
    if not math.isfinite(number):
        raise UserError(f"{name}={value}: expected a finite number, as in {name}=0.5")
    return number


def _number(value: object) -> float:
    """The number that was typed, or nan for what is none; `True` is none."""
    try:
        return float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except ValueError:
        return math.nan
