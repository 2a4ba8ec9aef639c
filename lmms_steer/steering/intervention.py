"""An intervention: which vector is applied, where, how strongly, to which tokens and by which operation."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from numbers import Real

from lmms_steer._util.layers import read_layers, write_layers
from lmms_steer.errors import UserError, shorten, unknown_name
from lmms_steer.steering.budget_text import is_budget
from lmms_steer.steering.gates import FIRES, READS, gates
from lmms_steer.steering.operations import operations
from lmms_steer.steering.placeholders import MEDIA
from lmms_steer.steering.sites import DEFAULT_SITE, sites
from lmms_steer.vectors.controls import parse_control

TOKENS = (*MEDIA, "text", "both", "last", "text_paper", "both_paper")
PHASES = ("prefill", "decode", "all")
SCALES = ("raw", "unit", "relative", "token")

_PLAIN = re.compile(r'[^,;"=\s]+')
"""A value that needs no quotes in the one-line form."""


@dataclass(frozen=True, slots=True)
class Intervention:
    """One vector, at one layer or at several with one alpha.

    By default `h' = h + alpha * v` at the prompt positions (the paper's equation).

    `layer`, `alpha` and `tokens` may be None, which means "not given". `lmms_steer.steering.resolve` then fills them
    in: from the choice that is stored with the vector for this model, if everything that was given agrees with it, or
    else from the defaults. Only a complete intervention can be attached.
    """

    vector: str
    """A store name (`spatial`, `tiny-gemma2/spatial/mean_shift`) or a path to a safetensors file."""
    layer: int | None = None
    """0-based decoder block whose output is changed."""
    alpha: float | None = None
    """Strength, in the units of `scale`. Any finite number; 0 leaves the model unchanged, whatever the operation."""
    tokens: str | None = None
    """Which prompt positions are changed: `image`, `video`, `audio`, `text`, `both` (text and all media), `last` (the
    last of the prompt), or the masks of the paper's released code, `text_paper` and `both_paper`: text without special
    tokens and without the last token that is not special; `both_paper` adds the media."""
    phase: str = "prefill"
    """`prefill`: the prompt only, as in the paper; `decode`: generated tokens only; `all`: both."""
    operation: str = "add"
    """`add` (the paper's), or another one that is registered in `lmms_steer.steering.operations`."""
    scale: str = "raw"
    """The unit of alpha: `raw`, the vector as it is stored (the paper's); `unit`, the vector scaled to norm 1;
    `relative`, the mean norm of the residual at this layer over all of `tokens`, whatever the gammas
    (`lmms_steer.steering.recording`); `token`, the norm that each token has at the site."""
    gamma_image: float = 1.0
    """A factor on alpha at image and video tokens (the paper's gamma_image)."""
    gamma_text: float = 1.0
    """A factor on alpha at text tokens (the paper's gamma_text). Audio tokens have none."""
    control: str | None = None
    """A control that replaces the vector: `random[:SEED]`, `shuffled`, `wrong_concept[:CONCEPT]`
    (`lmms_steer.vectors.controls`)."""

    layers: str | None = None
    """Several layers instead of one: `8-20`, `8-20:4` or `3,7`, or in Python a list of numbers. Each is changed by its
    own direction, at the same alpha."""
    site: str = DEFAULT_SITE
    """Which tensor of the layer is changed: `residual`, its output; `input`; `mlp` or `attention`, what these add to
    the residual; `vision`, the output of a layer of the vision tower; `vision_mlp`, what its MLP adds; or another one
    that is registered in `lmms_steer.steering.sites`."""
    gate: str | None = None
    """A condition under which the vector acts: `cosine`, `probe`, or another one that is registered in
    `lmms_steer.steering.gates`. The keys below belong to it."""
    gate_vector: str | None = None
    """What the gate compares hidden states with: a store name or a file. `probe` needs a vector that `linear_probe`
    wrote; for other gates the default is `vector`, before a control replaces it."""
    gate_layer: int | None = None
    """0-based decoder block whose output the gate reads; by default the tensor that is about to be changed."""
    threshold: float | None = None
    """Of the gate's score; by default the gate's own (`cosine` 0, `probe` 0.5)."""
    fires: str = "above"
    """`above` or `below`: on which side of the threshold the vector acts."""
    read: str | None = None
    """`token`: each token decides for itself; `prompt` or `last`: the mean of the prompt's tokens, or its last token,
    decides for the whole sequence. By default the gate's own (`cosine` token, `probe` last)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "vector", _parse_vector(self.vector))
        object.__setattr__(self, "layer", _parse_layer("layer", self.layer))
        if self.layers is not None:
            self._parse_layers(self.layers)
        _refuse_budget(self.alpha)
        object.__setattr__(self, "alpha", None if self.alpha is None else _parse_finite("alpha", self.alpha))
        for name in ("gamma_image", "gamma_text"):
            object.__setattr__(self, name, _parse_finite(name, getattr(self, name)))
        if self.control is not None:
            object.__setattr__(self, "control", str(self.control))
            parse_control(str(self.control))
        for name, known in (("tokens", TOKENS), ("phase", PHASES), ("scale", SCALES)):
            value = getattr(self, name)
            if value not in known and not (name == "tokens" and value is None):
                raise unknown_tokens(name, value) if name == "tokens" else unknown_name(name, value, known)
        object.__setattr__(self, "site", sites.get(str(self.site)).name)
        operation = operations.get(str(self.operation))
        if self.scale != "raw" and not operation.uses_length:
            raise UserError(
                f"operation={self.operation},scale={self.scale}: the vector's length plays no part in this operation,"
                " so leave scale out"
            )
        self._check_gate()
        if sites.get(self.site).tower == "vision":
            self._check_tower()
        if self.phase == "decode" and self.tokens in MEDIA:
            raise UserError(f"tokens={self.tokens},phase=decode steers nothing: generated tokens are text")
        self._check_gammas()

    @property
    def complete(self) -> bool:
        """Whether layer (or layers), alpha and tokens are all given."""
        return bool(self.layer_numbers) and None not in (self.alpha, self.tokens)

    @property
    def layer_numbers(self) -> tuple[int, ...]:
        """The layers that are changed, in order; empty if none is given."""
        if self.layers is not None:
            return read_layers(self.layers, "layers=")
        return () if self.layer is None else (self.layer,)

    def by_layer(self) -> "list[Intervention]":
        """The same intervention at each of its layers."""
        if self.layers is None:
            return [self]
        return [replace(self, layer=layer, layers=None) for layer in self.layer_numbers]

    def __str__(self) -> str:
        given = {k: v for k, v in asdict(self).items() if v is not None and v != _DEFAULTS.get(k)}
        return ",".join(f"{key}={_quote(value)}" for key, value in given.items())

    def _check_gammas(self) -> None:
        """Refuse a gamma of tokens that are not steered."""
        if self.tokens is None:
            return
        both = self.tokens.startswith("both")
        of_media = (both and self.phase != "decode") or self.tokens in ("image", "video")
        of_text = both or self.tokens not in MEDIA
        for name, used, kinds in (
            ("gamma_image", of_media, "image and video tokens"),
            ("gamma_text", of_text, "text tokens"),
        ):
            value = getattr(self, name)
            if value != 1 and not used:
                decode = ",phase=decode" if both else ""
                raise UserError(
                    f"tokens={self.tokens}{decode},{name}={value:g}: {name} is a factor on alpha at {kinds}, which are"
                    " not steered: leave it out"
                )

    def _check_tower(self) -> None:
        """Refuse what has no meaning in a vision tower, which runs before there are tokens."""
        if self.tokens not in (None, "both", "image"):
            raise UserError(f"site={self.site},tokens={self.tokens}: every patch is steered there, leave tokens out")
        for name in ("phase", "gamma_image", "gamma_text", "gate"):
            if (value := getattr(self, name)) != _DEFAULTS[name]:
                raise UserError(f"site={self.site},{name}={shorten(value)}: a vision tower has no such choice")
        if self.scale == "relative":
            raise UserError(f"site={self.site},scale=relative: norms are measured in the decoder, use scale=token")

    def _check_gate(self) -> None:
        """Read and check the keys of the gate, which nothing but a gate gives a meaning."""
        if self.gate is None:
            for name in ("gate_vector", "gate_layer", "threshold", "fires", "read"):
                value = getattr(self, name)
                if value != _GATE_DEFAULTS.get(name):
                    raise UserError(f"{name}={shorten(value)} is a key of a gate: add gate=cosine or gate=probe")
            return
        gate = gates.get(str(self.gate))
        object.__setattr__(self, "gate_layer", _parse_layer("gate_layer", self.gate_layer))
        if self.gate_vector is not None:
            object.__setattr__(self, "gate_vector", _parse_vector(self.gate_vector, "gate_vector"))
        for name, known in (("fires", FIRES), ("read", READS)):
            value = getattr(self, name)
            if value not in known and not (name == "read" and value is None):
                raise unknown_name(name, value, known)
        if self.threshold is not None:
            object.__setattr__(self, "threshold", _parse_finite("threshold", self.threshold))
            low, high = gate.limits
            if not low <= float(self.threshold) <= high:
                raise UserError(f"threshold={self.threshold:g}: gate={gate.name} has scores from {low:g} to {high:g}")
        if gate.needs_probe and self.gate_vector is None:
            raise UserError(
                f"gate={gate.name} needs a probe: add gate_vector=NAME, a vector that lmms-steer extract --method"
                " linear_probe wrote"
            )
        if gate.needs_probe and self.site != DEFAULT_SITE and self.gate_layer is None:
            raise UserError(f"gate={gate.name},site={self.site}: a probe reads a layer's output: add gate_layer=LAYER")
        self._check_gate_layer(may_be_left_out=self.site == DEFAULT_SITE or not gate.needs_probe)

    def _check_gate_layer(self, may_be_left_out: bool) -> None:
        """Check that the gate reads a layer before anything that it decides on is changed."""
        first = min(self.layer_numbers, default=None)
        if first is None or self.gate_layer is None:
            return
        last = first if self.site == DEFAULT_SITE else first - 1
        if self.gate_layer <= last:
            return
        of = f", the first of layers={self.layers}," if self.layers is not None else ""
        ways = [f"give gate_layer={last}" + (" or less" if last else "")] if last >= 0 else []
        if may_be_left_out:
            ways.append("leave it out: then what is about to be changed is read, at each layer")
        raise UserError(
            f"gate_layer={self.gate_layer}: layer {first}{of} is steered before that is read: "
            + (", or ".join(ways) or "steer a layer above 0")
        )

    def _parse_layers(self, value: object) -> None:
        """Write the layers in one form; one layer alone becomes `layer`."""
        if self.layer is not None:
            raise UserError(f"layer={self.layer},layers={shorten(value)}: give one of them")
        numbers = sorted(read_layers(_layers_text(value), "layers="))
        single = len(numbers) == 1
        object.__setattr__(self, "layers", None if single else write_layers(numbers))
        object.__setattr__(self, "layer", numbers[0] if single else None)


_GATE_DEFAULTS = {"fires": "above"}
_DEFAULTS = {field.name: field.default for field in fields(Intervention) if field.default is not MISSING}
"""Values that the one-line form leaves out."""
FIELDS = tuple(field.name for field in fields(Intervention))
"""The keys of an intervention in model_args, in the one-line form and in YAML."""


def unknown_tokens(kind: str, value: object) -> UserError:
    """The error for a token target that does not exist, or for several in one.

    Args:
        kind: what the user calls it ("tokens").
        value: what was given.
    """
    parts = [part for part in re.split(r"[\s,+&|]+", str(value)) if part]
    if len(parts) < 2 or any(part not in TOKENS for part in parts):
        return unknown_name(kind, value, TOKENS)
    several = "both means text and all media" if "text" in parts else "for several, write an intervention for each"
    return UserError(f"{kind} {shorten(value)!r}: expected one of {', '.join(TOKENS)}; {several}")


def _quote(value: object) -> str:
    text = format(value, ".15g") if isinstance(value, float) and float(format(value, ".15g")) == value else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _parse_vector(value: object, key: str = "vector") -> str:
    # lmms-eval turns `vector=20241101` and `vector=nan` into numbers
    name = str(value).strip()
    if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":
        name = name[1:-1]
    writable = name.encode(errors="replace").decode() == name
    if len(name.splitlines()) != 1 or "\0" in name or not writable or isinstance(value, list | dict):
        raise UserError(f"{key}={shorten(repr(value))} names no vector: give a store name or a path")
    return name


def _refuse_budget(alpha: object) -> None:
    if is_budget(alpha):
        raise UserError(
            f"alpha={shorten(alpha)}: a KL budget has to be resolved for the model first: lmms-steer search --alphas"
            f" {shorten(alpha.strip())} … writes choice.yaml with the number, for steering=choice.yaml; in Python,"
            " lmms_steer.find_alpha returns a spec with it"
        )


def _parse_layer(key: str, value: object) -> int | None:
    if value is None:
        return None
    number = _parse_number(value)
    if not math.isfinite(number) or number != int(number):
        several = f"; for several write layers={_quote(_layers_text(value))}" if _is_several(key, value) else ""
        raise UserError(f"{key}={shorten(value)}: expected one whole number, the 0-based decoder layer{several}")
    if number < 0:
        raise UserError(f"{key}={shorten(value)}: layers are counted from 0 up, negative numbers are not allowed")
    return int(number)


def _layers_text(value: object) -> str:
    """Several layers as text, also of the numbers that Python code has, such as a list or an array."""
    # an array of no dimension, which is one number, has an iterator that raises
    is_numbers = isinstance(value, Iterable) and not isinstance(value, str | Mapping) and getattr(value, "ndim", 1) != 0
    return ",".join(map(str, value)) if is_numbers else str(value)  # type: ignore[call-overload]


def _is_several(key: str, value: object) -> bool:
    """Whether what was given as one layer is a way to write several."""
    try:
        return key == "layer" and bool(read_layers(_layers_text(value), ""))
    except UserError:
        return False


def _parse_finite(name: str, value: object) -> float:
    number = _parse_number(value)
    if not math.isfinite(number):
        raise UserError(f"{name}={shorten(value)}: expected a finite number, as in {name}=0.5")
    return number


def _parse_number(value: object) -> float:
    """The number, also one of numpy, or nan if the value is not a number; `True` is not one."""
    try:
        return float(value) if isinstance(value, str | Real) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return math.nan
