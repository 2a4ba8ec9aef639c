"""What is done to a hidden state at the steered positions. One function an operation, each defined by its formula.

In all: `h` [batch, positions, width] is the layer's output, `v` [width] the vector, `u = v / |v|`, `s` its strength in
the residual's units (`alpha · |v|` where alpha's scale is raw, `alpha` where it is unit, `alpha · mean |h|` where it is
relative), and the mask bool [batch, positions]. Where the mask is false h stays as it is, to the bit. Nothing is
changed in place, as others may hold it. What is not a plain addition is computed in float32 and rounded once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Operation = Callable[[Tensor, "ScaledVector", Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class ScaledVector:
    """A vector and how strongly it acts.

    Attributes:
        delta: float32 [width] = s · u.
        unit: float32 [width] = u.
        strength: s.
        alpha: as the user said it.
    """

    delta: Tensor
    unit: Tensor
    strength: float
    alpha: float


def add_masked(hidden: Tensor, delta: Tensor, mask: Tensor) -> Tensor:
    """`h' = h + s · u`: the paper's. `delta` = s · u, rounded once to the dtype of `hidden`."""
    return torch.where(mask.unsqueeze(-1), hidden + delta, hidden)


def _add(hidden: Tensor, push: ScaledVector, mask: Tensor) -> Tensor:
    return add_masked(hidden, push.delta.to(hidden), mask)


def norm_preserving(hidden: Tensor, push: ScaledVector, mask: Tensor) -> Tensor:
    """`h' = |h| · (h + s · u) / |h + s · u|`: the direction of the sum, the norm of before."""
    h = hidden.float()
    moved = h + push.delta.to(h)
    changed = moved * (h.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True).clamp_min(1e-12))
    return torch.where(mask.unsqueeze(-1), changed.to(hidden.dtype), hidden)


def clamp(hidden: Tensor, push: ScaledVector, mask: Tensor) -> Tensor:
    """`h' = h + (s - h · u) u`: the component along u becomes s, the rest stays."""
    h, unit = hidden.float(), push.unit.to(hidden.device)
    changed = h + (push.strength - h @ unit).unsqueeze(-1) * unit
    return torch.where(mask.unsqueeze(-1), changed.to(hidden.dtype), hidden)


def ablate(hidden: Tensor, push: ScaledVector, mask: Tensor) -> Tensor:
    """`h' = h - alpha (h · u) u`: at alpha 1 nothing is left along u; alpha -1 doubles it."""
    h, unit = hidden.float(), push.unit.to(hidden.device)
    changed = h - push.alpha * (h @ unit).unsqueeze(-1) * unit
    return torch.where(mask.unsqueeze(-1), changed.to(hidden.dtype), hidden)


def rotate(hidden: Tensor, push: ScaledVector, mask: Tensor) -> Tensor:
    """`h' = |h| (cos(alpha) ĥ + sin(alpha) w)`, w the unit part of u at right angles to ĥ: by alpha radians towards u.

    The norm stays. Where h lies along u there is no such w, and h stays.
    """
    h, unit = hidden.float(), push.unit.to(hidden.device)
    norm = h.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    own = h / norm
    across = unit - (own @ unit).unsqueeze(-1) * own
    length = across.norm(dim=-1, keepdim=True)
    angle = torch.tensor(push.alpha)
    changed = norm * (torch.cos(angle) * own + torch.sin(angle) * across / length.clamp_min(1e-12))
    return torch.where(mask.unsqueeze(-1) & (length > 1e-6), changed.to(hidden.dtype), hidden)


OPERATIONS: dict[str, Operation] = {
    "add": _add,
    "norm_preserving": norm_preserving,
    "clamp": clamp,
    "ablate": ablate,
    "rotate": rotate,
}
