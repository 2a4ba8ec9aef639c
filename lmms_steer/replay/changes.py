"""What a cell does to its layer, where a search has more keys than layer, alpha and tokens.

A plain cell adds `alpha * v` at its layer's output: a tensor says all about it. Every other one is a `Change`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from lmms_steer.steering.operations import ScaledVector, apply_operation
from lmms_steer.steering.resolved import ResolvedSpec
from lmms_steer.steering.scaled_vectors import ActiveLayer, active_layers
from lmms_steer.steering.spec import SteeringSpec


@dataclass(frozen=True, slots=True)
class Change:
    """A cell without its layer and tokens.

    Attributes:
        resolved: one intervention, whose layers, alpha and tokens are not used.
        alpha: the cell's.
    """

    resolved: ResolvedSpec
    alpha: float

    def at(self, layer: int, tokens: str) -> ResolvedSpec:
        """The cell as a spec."""
        (intervention,) = self.resolved.spec.interventions
        placed = replace(intervention, layer=layer, layers=None, alpha=self.alpha, tokens=tokens)
        return replace(self.resolved, spec=SteeringSpec((placed,)))

    @property
    def gated(self) -> bool:
        """Whether a gate decides where it acts."""
        return bool(self.resolved.gates)

    def as_strong_as(self, norm: float, layer: int, tokens: str) -> "Change":
        """The same with a strength of `norm` in the residual's units; with scale=token, of each token's own norm.

        An operation that does not use the vector's length keeps its alpha.
        """
        parts = [part for active in active_layers(self.at(layer, tokens)) for part in active.parts]
        if not parts or not self.resolved.operation_of(parts[0][0]).uses_length:
            return self
        _, vector = parts[0]
        if vector.per_token:
            return replace(self, alpha=math.copysign(1.0, self.alpha))
        return replace(self, alpha=self.alpha * norm / abs(float(vector.strength))) if norm else self


Delta = Tensor | Change
"""What one cell does: `alpha * v`, float [width], added at the layer's output; or a `Change`."""
Deltas = Tensor | Sequence[Change]
"""What several cells of one layer do: float [cells, width], or changes."""


def some_of(deltas: Deltas, cells: Sequence[int]) -> Deltas:
    """Some of the changes, by their places."""
    return deltas[list(cells)] if isinstance(deltas, Tensor) else [deltas[cell] for cell in cells]


def alone(delta: Delta) -> Deltas:
    """One change as a list of changes."""
    return delta[None] if isinstance(delta, Tensor) else [delta]


def changed(
    spec: ResolvedSpec,
    hidden: Tensor,
    mask_of: Callable[[str], Tensor],
    decision_of: Callable[[ActiveLayer], Tensor | None],
) -> Tensor:
    """The tensor of a spec's site, changed as the hooks of `lmms_steer.steering.site_hook` change it.

    Args:
        spec: one intervention, at one layer.
        hidden: [batch, positions, width].
        mask_of: token target ▸ its positions, bool [batch, positions].
        decision_of: where the gate lets it act, bool [batch, positions]; None without a gate.
    """
    for active in active_layers(spec):
        decision = decision_of(active)
        for part, scaled in active.parts:
            assert part.tokens is not None
            mask = mask_of(part.tokens).to(hidden.device)
            vector = _on(scaled, hidden)
            where = mask if decision is None else mask & decision.to(hidden.device)
            hidden = apply_operation(spec.operation_of(part), hidden, vector, where)
    return hidden


def _on(scaled: ScaledVector, hidden: Tensor) -> ScaledVector:
    """A vector on the device of hidden states, at their norms if its scale is `token`."""
    vector = replace(scaled, delta=scaled.delta.to(hidden.device), unit=scaled.unit.to(hidden.device))
    return vector.at_norms_of(hidden) if vector.per_token else vector
