"""Gates: conditions on hidden states under which an intervention acts.

A gate gives every hidden state a score. The intervention acts where the score is above (or below) a threshold: at each
token by itself, or on a whole sequence by what its prompt says.

    cosine  cos(h, c), where c is the intervention's own vector or another one
    probe   σ(w·h + b), the probability that a linear probe gives

Another package adds a gate with `register_gate`, in a module that an entry point of the group `lmms_steer.gates` names:

    @register_gate("dot", description="h·c", threshold=0.0)
    def dot(hidden, probe):
        return hidden @ probe.direction

This module imports no torch, so that specs can be checked without it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lmms_steer.errors import UserError
from lmms_steer.registry import Registry
from lmms_steer.vectors.steering_vectors import SteeringVectors

if TYPE_CHECKING:
    from torch import Tensor

GateFunction = Callable[["Tensor", "Probe"], "Tensor"]

READS = ("token", "prompt", "last")
"""Whose hidden state decides: each token's for itself; the mean over the prompt's tokens, or that of the prompt's last
token, for the whole sequence."""
FIRES = ("above", "below")
"""On which side of the threshold an intervention acts."""
_MIN_NORM = 1e-12


@dataclass(frozen=True, slots=True)
class Probe:
    """What a gate compares hidden states with.

    Attributes:
        direction: float32 [width], as the vector's file has it.
        weight_norm: the norm of a linear probe's weights, whose direction is stored with norm 1; 1 for other vectors.
        bias: b of a linear probe; 0 for other vectors.
    """

    direction: "Tensor"
    weight_norm: float = 1.0
    bias: float = 0.0


@dataclass(frozen=True, slots=True)
class Gate:
    """A condition on hidden states.

    Attributes:
        name: the value of `gate=` in a spec.
        description: one line, with the formula.
        function: `(hidden, probe)` to the scores [...], for float32 hidden states [..., width].
        threshold: default threshold.
        limits: the least and the greatest threshold that is allowed.
        read: default for `read=`, one of `READS`.
        needs_probe: whether the vector must be one that `linear_probe` wrote, with its weights' norm and its bias.
    """

    name: str
    description: str
    function: GateFunction
    threshold: float
    limits: tuple[float, float] = (-math.inf, math.inf)
    read: str = "token"
    needs_probe: bool = False


gates: Registry[Gate] = Registry("gate", "lmms_steer.gates")
"""Every known gate by its name."""


def register_gate(
    name: str,
    *,
    description: str,
    threshold: float,
    limits: tuple[float, float] = (-math.inf, math.inf),
    read: str = "token",
    needs_probe: bool = False,
) -> Callable[[GateFunction], GateFunction]:
    """Decorator that registers a function as a gate and returns it unchanged; arguments as of `Gate`.

    Raises:
        ValueError: for a name that is taken or not valid, an unknown `read`, or a threshold outside of its limits.
    """
    if read not in READS:
        raise ValueError(f"gate {name!r}: read={read!r} is none of {', '.join(READS)}")
    if not isinstance(threshold, int | float) or not limits[0] <= threshold <= limits[1]:
        raise ValueError(f"gate {name!r}: threshold={threshold!r} is no number from {limits[0]} to {limits[1]}")

    def register(function: GateFunction) -> GateFunction:
        gates.add(name, Gate(name, description, function, threshold, limits, read, needs_probe))
        return function

    return register


@register_gate("cosine", description="cos(h, c), where c is the intervention's vector or gate_vector",
               threshold=0.0, limits=(-1.0, 1.0))  # fmt: skip
def cosine(hidden: "Tensor", probe: Probe) -> "Tensor":
    """`h · c / (|h| |c|)` (REVIS, 2602.11824; CAST, 2409.05907, compares with a projection of h instead)."""
    norms = hidden.norm(dim=-1) * probe.direction.norm()
    scores: Tensor = hidden @ probe.direction / norms.clamp_min(_MIN_NORM)
    return scores


@register_gate("probe", description="σ(w·h + b) of the linear probe gate_vector",
               threshold=0.5, limits=(0.0, 1.0), read="last", needs_probe=True)  # fmt: skip
def linear_probe(hidden: "Tensor", probe: Probe) -> "Tensor":
    """`σ(w · h + b)`, the probability that h is an anchor token (AutoSteer, 2507.13255, has a probe of two layers)."""
    return (probe.weight_norm * (hidden @ probe.direction) + probe.bias).sigmoid()


def probe_numbers(vectors: SteeringVectors, layer: int) -> tuple[float, float]:
    """The norm of a linear probe's weights and its bias at a layer.

    Raises:
        UserError: for vectors that are no linear probe's, or whose file was written before it stored these numbers.
    """
    settings = vectors.provenance.get("settings")
    values = [settings.get(name) if isinstance(settings, Mapping) else None for name in ("weight_norm", "bias")]
    found = [value.get(str(layer)) if isinstance(value, Mapping) else None for value in values]
    numbers = [float(n) for n in found if isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n)]
    if len(numbers) != 2:
        raise UserError(
            f"gate=probe: {vectors.name} has no probe's weight norm and bias at layer {layer}: extract it with"
            " lmms-steer extract --method linear_probe (files from before 0.1.0, and those made with --orthogonal_to,"
            " lack them)"
        )
    return numbers[0], numbers[1]
