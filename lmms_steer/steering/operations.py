"""Operations: how a vector changes the hidden states at the steered positions.

Notation: `h` is a hidden state, `v` [width] the vector, `u = v / |v|`, and `s` the strength in the residual's units:
`alpha · |v|` for scale=raw, `alpha` for scale=unit, `alpha · mean |h|` for scale=relative, and `alpha · |h|` for
scale=token, which differs from token to token.

An operation is a function `(hidden, vector)` of the layer's output [batch, positions, width] and a `ScaledVector` on
the same device. It returns the changed hidden states and changes nothing in place, because other hooks may hold the
tensor. It changes every position: `apply_operation` keeps the changes at the steered positions only.

Another package adds an operation with `register_operation`, in a module that an entry point of the group
`lmms_steer.operations` names:

    @register_operation("double", description="h' = h + 2 s u", effect="{s:.4g} along v is added twice")
    def double(hidden, vector):
        return hidden + 2 * vector.delta

This module imports no torch, so that specs can be checked without it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from inspect import getdoc
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING

from lmms_steer._util.code import is_built_in
from lmms_steer.errors import SteeringError, UserError, first_line
from lmms_steer.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

OperationFunction = Callable[["Tensor", "ScaledVector"], "Tensor"]

DEFAULT_ALPHA = 0.5
"""Default alpha of an operation. For mean shifts it is about a fifth of the residual's norm."""
_MIN_NORM = 1e-12
"""Norms are clamped to this before a division."""
_MIN_SINE = 1e-6
"""Below this sine of the angle between h and v, `rotate` has no plane to rotate in."""


@dataclass(frozen=True, slots=True)
class ScaledVector:
    """A vector with the strength at which it acts.

    Attributes:
        delta: float32 [width], s · u; with scale=token [batch, positions, width]; with a direction for each patch of a
            vision tower [positions, width].
        unit: float32 [width], u; with a direction for each patch [positions, width].
        strength: s; with scale=token float32 [batch, positions]; with a direction for each patch the mean.
        alpha: the intervention's alpha times the gamma of the steered tokens.
        per_token: whether the scale is `token`. Before `at_norms_of`, delta and strength are then those of |h| = 1.
    """

    delta: "Tensor"
    unit: "Tensor"
    strength: "float | Tensor"
    alpha: float
    per_token: bool = False

    def at_norms_of(self, hidden: "Tensor") -> "ScaledVector":
        """The vector at the strength of each token, `s = alpha · |h|`.

        Args:
            hidden: [batch, positions, width], on the vector's device.
        """
        strength = self.alpha * hidden.float().norm(dim=-1)
        return replace(self, delta=strength.unsqueeze(-1) * self.unit, strength=strength)


@dataclass(frozen=True, slots=True)
class Operation:
    """A way to change hidden states.

    Attributes:
        name: the value of `operation=` in a spec.
        description: one line, with the formula.
        function: `(hidden, vector)` to the changed hidden states, all of the same shape [batch, positions, width].
        effect: the line that `lmms-steer inspect` prints, with `{s}` and `{alpha}` for the strengths.
        default_alpha: alpha where a spec gives none (scale=relative has its own default).
        uses_length: whether the length of the vector matters. If not, only scale=raw is accepted.
        in_float32: whether the function gets hidden states in float32 and the result is rounded once to the model's
            dtype; otherwise the function gets and returns the model's dtype.
        adds_delta: whether s · u is added, so that s can be compared with |h|.
    """

    name: str
    description: str
    function: OperationFunction
    effect: str
    default_alpha: float = DEFAULT_ALPHA
    uses_length: bool = True
    in_float32: bool = True
    adds_delta: bool = False

    def __post_init__(self) -> None:
        try:
            self.effect.format(s=1.0, alpha=1.0)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"operation {self.name!r}: effect {self.effect!r} may only refer to {{s}} and {{alpha}}"
            ) from error

    def describe(self, vector: ScaledVector) -> str:
        """The effect of the operation with this vector, in words."""
        strength = _ShareOfNorm(vector.strength) if vector.per_token else vector.strength
        return self.effect.format(s=strength, alpha=vector.alpha)


class _ShareOfNorm(float):
    """A strength in units of each token's own norm: `0.2·|h|`."""

    def __format__(self, spec: str) -> str:
        return f"{super().__format__(spec)}·|h|"


_PACKAGE = Path(__file__).parents[1]

operations: Registry[Operation] = Registry("operation", "lmms_steer.operations")
"""Every known operation by its name."""


def register_operation(
    name: str,
    *,
    description: str,
    effect: str,
    default_alpha: float = DEFAULT_ALPHA,
    uses_length: bool = True,
    in_float32: bool = True,
    adds_delta: bool = False,
) -> Callable[[OperationFunction], OperationFunction]:
    """Decorator that registers a function as an operation and returns it unchanged; arguments as of `Operation`.

    Raises:
        ValueError: for a name that is taken or not valid, or an effect that cannot be formatted.
    """

    def register(function: OperationFunction) -> OperationFunction:
        entry = Operation(name, description, function, effect, default_alpha, uses_length, in_float32, adds_delta)
        operations.add(name, entry)
        return function

    return register


def find_operation(operation: "str | Operation | OperationFunction") -> Operation:
    """The operation of a name; a function becomes an unregistered operation with the default settings.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    if isinstance(operation, Operation):
        return operation
    if not callable(operation):
        return operations.get(str(operation))
    for registered in operations.loaded().values():
        if registered.function is operation:
            return registered
    name = getattr(operation, "__name__", type(operation).__name__)
    description = (getdoc(operation) or name).splitlines()[0]
    return Operation(name, description, operation, "changed by a function, with s = {s:.4g} and alpha = {alpha:g}")


@contextmanager
def failures_of(what: str) -> Iterator[None]:
    """Explain an error in somebody's own function, which a wrapper of lmms-eval may otherwise swallow.

    Raises:
        SteeringError: for any exception but one of this package, or for a lack of memory.
    """
    from torch import OutOfMemoryError

    try:
        yield
    except (UserError, OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        raise SteeringError(f"{what} failed{_place(error)}: {type(error).__name__}: {first_line(error)}") from error


def _place(error: Exception) -> str:
    """Where an error was raised last outside of libraries and of this package: ` (my_steering.py, line 12)`."""
    frames = [frame for frame in extract_tb(error.__traceback__) if not _is_library(Path(frame.filename))]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _is_library(file: Path) -> bool:
    return _PACKAGE in file.parents or "torch" in file.parts or not file.is_file()


def apply_operation(operation: Operation, hidden: "Tensor", vector: ScaledVector, mask: "Tensor") -> "Tensor":
    """Apply an operation at the positions where the mask is true; elsewhere `hidden` is returned to the bit.

    Args:
        operation: what to do.
        hidden: [batch, positions, width], in the model's dtype; not changed in place.
        vector: on the device of `hidden`.
        mask: bool [batch, positions].

    Returns:
        [batch, positions, width] in the dtype of `hidden`.

    Raises:
        SteeringError: if the operation fails, or returns anything but a tensor of this shape; if one that is not of
            this package returns values that are not finite.
    """
    given = hidden.float() if operation.in_float32 else hidden
    if operation.in_float32 and given is hidden:
        # a function that changes its argument in place must not reach the other positions
        given = hidden.clone()
    if not is_built_in(operation.function):
        # nor the vector, which every call is given
        vector = replace(vector, delta=vector.delta.clone(), unit=vector.unit.clone())
    what = f"operation {operation.name!r}"
    with failures_of(what):
        changed = checked_tensor(what, operation.function(given, vector), hidden.shape, hidden)
        steered = changed.to(hidden.dtype).where(mask.unsqueeze(-1), hidden)
        if not is_built_in(operation.function):
            became = ~changed.isfinite().all(-1) & hidden.isfinite().all(-1)
            if bool((became & mask).any()):
                raise SteeringError(f"{what} returned values that are not finite, for hidden states that are")
    return steered


def checked_tensor(what: str, returned: object, shape: Sequence[int], hidden: "Tensor") -> "Tensor":
    """What somebody's own function returned for hidden states, if it can be used.

    Args:
        what: the function, for messages.
        returned: by it.
        shape: that is expected.
        hidden: what it was given.

    Raises:
        SteeringError: for anything but a tensor of real numbers of this shape.
    """
    from torch import Tensor

    if not isinstance(returned, Tensor) or returned.is_complex():
        kind = f"tensor of {returned.dtype}" if isinstance(returned, Tensor) else type(returned).__name__
        raise SteeringError(f"{what} returned a {kind}, and not a tensor of real numbers")
    if returned.shape != shape:
        raise SteeringError(
            f"{what} returned shape {list(returned.shape)} for hidden states of shape {list(hidden.shape)}"
        )
    return returned


def add_masked(hidden: "Tensor", delta: "Tensor", mask: "Tensor") -> "Tensor":
    """`h' = h + delta` where the mask is true, for a `delta` in the dtype of `hidden`; shapes broadcast."""
    return (hidden + delta).where(mask.unsqueeze(-1), hidden)


@register_operation(
    "add",
    description="h' = h + s u, the operation of the paper",
    effect="{s:.4g} along v is added",
    in_float32=False,
    adds_delta=True,
)
def add(hidden: "Tensor", vector: ScaledVector) -> "Tensor":
    """`h' = h + s · u`, with s · u rounded once to the dtype of h."""
    return hidden + vector.delta.to(hidden)


@register_operation(
    "norm_preserving",
    description="h' = |h| (h + s u) / |h + s u|: the direction of the sum, the norm of h",
    effect="{s:.4g} along v is added, then |h| is restored",
    adds_delta=True,
)
def norm_preserving(hidden: "Tensor", vector: ScaledVector) -> "Tensor":
    """`h' = |h| · (h + s · u) / |h + s · u|`: the direction of the sum with the norm of h."""
    return _with_norm_of(hidden, hidden + vector.delta)


@register_operation(
    "norm_preserving_weighted",
    description="norm_preserving with w s in the place of s, w = 1 + max(0, -cos(h, s u))",
    effect="{s:.4g} along v is added, up to twice that where h points away from it, then |h| is restored",
    adds_delta=True,
)
def norm_preserving_weighted(hidden: "Tensor", vector: ScaledVector) -> "Tensor":
    """`h' = |h| · n / |n|`, where `n = h + w · s · u` and `w = 1 + max(0, cos(h, -s · u))`.

    Where h points away from s · u it is pushed up to twice as far (the released code of VISTA, 2502.03628).
    """
    along = (hidden * vector.unit).sum(-1, keepdim=True) / hidden.norm(dim=-1, keepdim=True).clamp_min(_MIN_NORM)
    weight = 1 + (-along if vector.alpha > 0 else along).clamp_min(0.0)
    return _with_norm_of(hidden, hidden + weight * vector.delta)


def _with_norm_of(hidden: "Tensor", moved: "Tensor") -> "Tensor":
    """`moved` with the norms of `hidden`."""
    changed: Tensor = moved * (
        hidden.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True).clamp_min(_MIN_NORM)
    )
    return changed


@register_operation(
    "clamp",
    description="h' = h + (s - h·u) u: the component along v becomes s",
    effect="the component along v becomes {s:.4g}",
)
def clamp(hidden: "Tensor", vector: ScaledVector) -> "Tensor":
    """`h' = h + (s - h · u) u`: the component along u becomes s, the rest is unchanged."""
    return hidden + (vector.strength - hidden @ vector.unit).unsqueeze(-1) * vector.unit


@register_operation(
    "ablate",
    description="h' = h - alpha (h·u) u: removes the component along v at alpha 1",
    effect="{alpha:g} times the component along v is removed",
    default_alpha=1.0,
    uses_length=False,
)
def ablate(hidden: "Tensor", vector: ScaledVector) -> "Tensor":
    """`h' = h - alpha (h · u) u`: alpha 1 removes the component along u, alpha -1 doubles it."""
    return hidden - vector.alpha * (hidden @ vector.unit).unsqueeze(-1) * vector.unit


@register_operation(
    "rotate",
    description="turns h by alpha radians towards v, with the norm unchanged",
    effect="turned by {alpha:g} radians towards v",
    default_alpha=0.2,
    uses_length=False,
)
def rotate(hidden: "Tensor", vector: ScaledVector) -> "Tensor":
    """`h' = |h| (cos(alpha) ĥ + sin(alpha) w)`, where `ĥ = h / |h|` and w is the unit part of u orthogonal to ĥ.

    The norm is unchanged. Where h is parallel to u there is no such w, and h is returned.
    """
    norm = hidden.norm(dim=-1, keepdim=True).clamp_min(_MIN_NORM)
    direction = hidden / norm
    orthogonal = vector.unit - (direction @ vector.unit).unsqueeze(-1) * direction
    sine = orthogonal.norm(dim=-1, keepdim=True)
    # on the CPU for every device, so that the sine and cosine are the same numbers everywhere
    angle = vector.unit.new_tensor(vector.alpha, device="cpu")
    turned: Tensor = norm * (angle.cos() * direction + angle.sin() * orthogonal / sine.clamp_min(_MIN_NORM))
    return turned.where(sine > _MIN_SINE, hidden)
