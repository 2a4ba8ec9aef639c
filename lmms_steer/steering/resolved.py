"""A spec that is resolved for a model: what is attached, hashed, named and recorded."""

import hashlib
import json
import marshal
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from lmms_steer._util.code import bound_values
from lmms_steer.errors import UserError
from lmms_steer.registry import Registry
from lmms_steer.steering.facts import Norms
from lmms_steer.steering.gates import gates
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.operations import Operation, OperationFunction, find_operation, operations
from lmms_steer.steering.sites import DEFAULT_SITE, sites
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.steering_vectors import SteeringVectors

_ALWAYS_RECORDED = {"vector", "layer", "alpha", "tokens", "phase", "operation"}


@dataclass(frozen=True, slots=True, repr=False)
class ResolvedSpec:
    """A complete spec with its vectors.

    Attributes:
        spec: every intervention complete, and vectors named as in the store.
        vectors: one for each intervention, in order.
        notes: lines for the user: where the values that were filled in come from.
        warnings: lines that a user must not overlook.
        norms: mean norms of this model's residual, needed if a strength is relative to them.
        gates: what each intervention's gate compares hidden states with, None for those without; empty if none has one.
        operation: an unregistered operation that is applied instead of those that the interventions name; only the
            Python API can set it.
    """

    spec: SteeringSpec = SteeringSpec()
    vectors: tuple[SteeringVectors, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    norms: Norms | None = None
    operation: Operation | None = None
    gates: tuple[SteeringVectors | None, ...] = ()

    def __repr__(self) -> str:
        if not self.spec:
            return "ResolvedSpec (empty: the unsteered model)"
        operation = f", operation {self.operation.name}" if self.operation is not None else ""
        return f"ResolvedSpec {self.spec} (sha256 {self.sha256[:8]}{operation})"

    @property
    def relative(self) -> bool:
        """Whether a strength is relative to the residual's norms."""
        return any(i.scale == "relative" for i in self.spec.interventions)

    @property
    def sha256(self) -> str:
        """Hash of what is done to the model: the interventions with the *content* of their vectors, not their names.

        The code of operations, sites and gates that are not this package's counts, too.
        """
        pairs = list(zip(self.spec.interventions, self.vectors, strict=True))
        # fields at their default are left out, so that a new field does not change old hashes
        parts: list[Any] = [{**explicit_fields(i), "vector": v.sha256} for i, v in pairs]
        for part, gate in zip(parts, self.gates, strict=False):
            if gate is not None:
                part["gate_vector"] = gate.sha256
        if self.relative:
            layers = [layer for i, _ in pairs for layer in i.layer_numbers]
            parts.append({str(layer): dict((self.norms or {}).get(layer, {})) for layer in layers})
        if self.operation is not None:
            parts.append({"operation": self.operation.name, "code": _code_hash(self.operation.function)})
        if own := own_code(*self.spec.interventions):
            parts.append({"own_code": own})
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def tag(self) -> str:
        """A name for folders: `spatial-mean_shift_L3_a0.5_image_1a2b3c4d`, or `baseline`."""
        parts = [
            f"{v.provenance.get('concept', 'vector')}-{v.provenance.get('method', 'unknown')}"
            f"_{_place(i)}_a{i.alpha:g}_{i.tokens}"
            for i, v in zip(self.spec.interventions, self.vectors, strict=True)
        ]
        if not parts:
            return "baseline"
        return "+".join([*parts[:2], *(["more"] if len(parts) > 2 else [])]) + f"_{self.sha256[:8]}"

    def operation_of(self, intervention: Intervention) -> Operation:
        """The operation that one of the interventions applies."""
        return self.operation or operations.get(intervention.operation)

    def record(self) -> dict[str, Any]:
        """The entry of a results file: the one-line spec, its hash, and the hash and provenance of each vector."""
        return {
            "spec": str(self.spec),
            "sha256": self.sha256 if self.spec else None,
            "vectors": [_record_vector(v) for v in self.vectors],
            **({"gate_vectors": [_record_vector(v) for v in self.gates if v is not None]} if self.gates else {}),
            "notes": [*self.notes, *self.warnings],
            **({"provenance": dict(self.spec.provenance)} if self.spec.provenance else {}),
            **({"operation": self.operation.name} if self.operation is not None else {}),
        }


def with_operation(resolved: ResolvedSpec, operation: str | Operation | OperationFunction | None) -> ResolvedSpec:
    """The same spec with another operation for all interventions; unchanged for None."""
    if operation is None:
        return resolved
    spec, custom = replace_operation(resolved.spec, operation)
    return replace(resolved, spec=spec, operation=custom)


def own_code(*interventions: Intervention) -> dict[str, str]:
    """What interventions use that is not this package's: `operation soft_clamp` ▸ hash of its code."""
    used: list[tuple[Registry[Any], str | None]] = []
    for one in interventions:
        used += [(operations, one.operation), (sites, one.site), (gates, one.gate)]
    found = {f"{registry.kind} {name}": registry.code(name) for registry, name in used if name is not None}
    return {name: code for name, code in sorted(found.items()) if code is not None}


def _record_vector(vector: SteeringVectors) -> dict[str, Any]:
    return {"name": vector.name, "sha256": vector.sha256, "provenance": dict(vector.provenance)}


def _place(intervention: Intervention) -> str:
    """Layers and site for a folder's name: `L3`, `L8-20by4-mlp`."""
    layers = str(intervention.layer) if intervention.layers is None else intervention.layers.replace(":", "by")
    return f"L{layers}" + (f"-{intervention.site}" if intervention.site != DEFAULT_SITE else "")


def _code_hash(function: Any) -> str:
    """Tells functions of one name apart, for hashes of specs."""
    code = getattr(function, "__code__", None)
    where = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    compiled = marshal.dumps(code) if code is not None else b""
    bound = bound_values(function)
    return hashlib.sha256(where.encode() + compiled + (repr(bound).encode() if bound else b"")).hexdigest()


def explicit_fields(intervention: Intervention) -> dict[str, Any]:
    """The intervention's fields, without the later additions to the format that are at their defaults."""
    defaults = {f.name: f.default for f in fields(Intervention) if f.name not in _ALWAYS_RECORDED}
    return {k: v for k, v in asdict(intervention).items() if k in _ALWAYS_RECORDED or v != defaults[k]}


def replace_operation(
    spec: SteeringSpec, operation: str | Operation | OperationFunction
) -> tuple[SteeringSpec, Operation | None]:
    """The spec with a registered operation in every intervention; an unregistered one is returned separately.

    Raises:
        UserError: for a scale that has no meaning in the operation.
    """
    found = find_operation(operation)
    registered = found.name in operations and operations.get(found.name) is found
    if not registered and not found.uses_length and any(i.scale != "raw" for i in spec.interventions):
        raise UserError(f"operation={found.name}: the vector's length plays no part in it, so leave scale out")
    name = found.name if registered else Intervention("unnamed").operation
    interventions = tuple(replace(i, operation=name) for i in spec.interventions)
    return replace(spec, interventions=interventions), None if registered else found
