"""A spec that can be attached, with its vectors; its hash, its name and what a results file says of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lmms_steer.spec import Intervention, SteeringSpec
from lmms_steer.vectors import SteeringVectors

Norms = Mapping[int, Mapping[str, float]]
"""layer ▸ `image`, `text`, `both`, `last` ▸ mean norm of the residual there (`lmms_steer.intervention.norms`)."""


@dataclass(frozen=True, slots=True)
class ResolvedSpec:
    """A complete spec with its vectors.

    Attributes:
        spec: every intervention complete; vectors named as in the store.
        vectors: one a intervention, in order.
        notes: lines that a user should read: where an unsaid value came from.
        warnings: lines that a user must not overlook.
        norms: of this model's residual, where a strength is relative to them.
    """

    spec: SteeringSpec = SteeringSpec()
    vectors: tuple[SteeringVectors, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    norms: Norms | None = None

    @property
    def relative(self) -> bool:
        """Whether a strength is relative to the residual's norms."""
        return any(i.scale == "relative" for i in self.spec.interventions)

    @property
    def sha256(self) -> str:
        """Of what is done to the model: the interventions with the *content* of their vectors, not their names."""
        pairs = list(zip(self.spec.interventions, self.vectors, strict=True))
        # a key that is unsaid counts for nothing, so that a new one leaves old hashes as they are
        done: list[Any] = [{**said(i), "vector": v.sha256} for i, v in pairs]
        if self.relative:
            done.append({str(i.layer): dict((self.norms or {}).get(i.layer or 0, {})) for i, _ in pairs})
        return hashlib.sha256(json.dumps(done, sort_keys=True).encode()).hexdigest()

    @property
    def tag(self) -> str:
        """For folder names: `spatial-mean_shift_L3_a0.5_image_1a2b3c4d`, or `baseline`."""
        parts = [
            f"{v.provenance.get('concept', 'vector')}-{v.provenance.get('method', 'unknown')}"
            f"_L{i.layer}_a{i.alpha:g}_{i.tokens}"
            for i, v in zip(self.spec.interventions, self.vectors, strict=True)
        ]
        return (
            "+".join([*parts[:2], *(["more"] if len(parts) > 2 else [])]) + f"_{self.sha256[:8]}"
            if parts
            else "baseline"
        )

    def record(self) -> dict[str, Any]:
        """What a results file says of it: the one-line spec, its hash, and each vector's hash and provenance."""
        return {
            "spec": str(self.spec),
            "sha256": self.sha256 if self.spec else None,
            "vectors": [{"name": v.name, "sha256": v.sha256, "provenance": dict(v.provenance)} for v in self.vectors],
            "notes": [*self.notes, *self.warnings],
            **({"provenance": dict(self.spec.provenance)} if self.spec.provenance else {}),
        }


def said(intervention: Intervention) -> dict[str, Any]:
    """Its keys without those at a default that nobody has to say."""
    always = {"vector", "layer", "alpha", "tokens", "phase", "operation"}
    unsaid = {f.name: f.default for f in fields(Intervention) if f.name not in always}
    return {k: v for k, v in asdict(intervention).items() if k in always or v != unsaid[k]}
