"""One thing that is done to a model: a vector, where, how strongly, to which tokens, in what way."""

import json
import math
import re
from dataclasses import asdict, dataclass, fields

from lmms_steer.errors import UserError, shorten, unknown_name
from lmms_steer.vectors.controls import parse_control

TOKENS = ("image", "text", "both", "last", "text_paper", "both_paper")
PHASES = ("prefill", "decode", "all")
OPERATIONS = ("add", "norm_preserving", "clamp", "ablate", "rotate")
SCALES = ("raw", "unit", "relative")
_WITHOUT_LENGTH = ("ablate", "rotate")
"""Operations in which the vector's length plays no part."""

_PLAIN = re.compile(r'[^,;"=\s]+')


@dataclass(frozen=True, slots=True)
class Intervention:
    """One vector added at one layer: `h' = h + alpha * v` at the chosen prompt positions (the paper's equation).

    `layer`, `alpha` and `tokens` may be None, "not said": they are then filled from the choice that is stored beside
    the vector for this model, if it is for all else that is said, or from the defaults in
    `lmms_steer.steering.resolve`. Only a complete one can be attached.
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
    """`add` (the paper's), or one of `lmms_steer.steering.operations`, where each has its formula."""
    scale: str = "raw"
    """What alpha counts: `raw`, the vector as it is stored (the paper's); `unit`, the vector of norm 1; `relative`, the
    mean norm of the residual at this layer over all of `tokens`, whatever the gammas
    (`lmms_steer.steering.recording`)."""
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
            object.__setattr__(self, "control", str(self.control))
            parse_control(str(self.control))
        choices = (("tokens", TOKENS), ("phase", PHASES), ("operation", OPERATIONS), ("scale", SCALES))
        for name, known in choices:
            value = getattr(self, name)
            if value not in known and not (name == "tokens" and value is None):
                raise unknown_name(name, value, known)
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


def _quote(value: object) -> str:
    text = format(value, ".15g") if isinstance(value, float) and float(format(value, ".15g")) == value else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _name(value: object) -> str:
    # lmms-eval turns `vector=20241101` and `vector=nan` into numbers before we see them
    name = str(value).strip()
    if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":
        name = name[1:-1]
    writable = name.encode(errors="replace").decode() == name
    if len(name.splitlines()) != 1 or "\0" in name or not writable or isinstance(value, list | dict):
        raise UserError(f"vector={shorten(repr(value))} names no vector: give a store name or a path")
    return name


def _layer(value: object) -> int | None:
    if value is None:
        return None
    number = _number(value)
    if not math.isfinite(number) or number != int(number):
        raise UserError(f"layer={shorten(value)}: expected one whole number, the 0-based decoder layer")
    if number < 0:
        raise UserError(f"layer={shorten(value)}: layers are counted from 0 up, there are no negative ones")
    return int(number)


def _alpha(value: object) -> float | None:
    if value is None:
        return None
    return _finite("alpha", value)


def _finite(name: str, value: object) -> float:
    number = _number(value)
    if not math.isfinite(number):
        raise UserError(f"{name}={shorten(value)}: expected a finite number, as in {name}=0.5")
    return number


def _number(value: object) -> float:
    """The number that was typed, or nan for what is none; `True` is none."""
    try:
        return float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return math.nan
