"""Resolve a spec for a model: find and check its vectors, and fill in layer, alpha and tokens where they are not given.

`resolve` returns a `ResolvedSpec`, which can be attached, hashed, named and recorded.
"""

import hashlib
import json
import marshal
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from lmms_steer import concepts
from lmms_steer.errors import UserError
from lmms_steer.steering.budget import check_budget, check_budget_model
from lmms_steer.steering.facts import ModelFacts as ModelFacts  # noqa: PLC0414  part of this module's interface
from lmms_steer.steering.facts import Norms as Norms  # noqa: PLC0414
from lmms_steer.steering.gates import gates as registry_of_gates
from lmms_steer.steering.gates import probe_numbers
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.operations import Operation, OperationFunction, find_operation, operations
from lmms_steer.steering.origin import other_model_warnings
from lmms_steer.steering.row_vectors import check_patches, is_row_vector, placeholder
from lmms_steer.steering.sites import DEFAULT_SITE, sites
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import backbone_of, short_name
from lmms_steer.vectors.controls import make_control
from lmms_steer.vectors.steering_vectors import SteeringVectors

DEFAULT_TOKENS = "both"
DEFAULT_RELATIVE_ALPHA = 0.2
"""Default alpha for the scales relative and token: about the strength of a mean shift at an operation's default."""

_CHOSEN_FIELDS = ("layer", "alpha", "tokens")
"""What a stored choice fills in."""
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
        """Hash of what is done to the model: the interventions with the *content* of their vectors, not their names."""
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


def resolve(
    spec: SteeringSpec,
    model: ModelFacts,
    given: Mapping[str, SteeringVectors] | None = None,
    operation: str | Operation | OperationFunction | None = None,
) -> ResolvedSpec:
    """Find the vectors of a spec, fill in what is not given, and check everything against the model.

    Args:
        spec: as the user wrote it.
        model: the model to be steered.
        given: vectors by the name that the spec uses for them; all others are looked up in the store.
        operation: replaces the operation of every intervention: a name, an `Operation`, or a function.

    Raises:
        UserError: for a vector that does not exist or cannot be read, a layer that the model or the vector does not
            have, or a width that is not the model's.
    """
    custom = None
    if operation is not None:
        spec, custom = _replace_operation(spec, operation)
    interventions: list[Intervention] = []
    read_by_gates: list[SteeringVectors | None] = []
    vectors: list[SteeringVectors] = []
    notes: list[str] = []
    warnings: list[str] = []
    provenance = dict(spec.provenance)
    for typed in spec.interventions:
        entry = None
        if given is not None and typed.vector in given:
            vector = given[typed.vector]
        elif is_row_vector(typed.vector):
            vector = placeholder(typed, model.name, model.n_layers, model.hidden_size)
        else:
            entry = store.find(typed.vector, backbone_of(model.name))
            vector = SteeringVectors.load(entry.path)
        intervention, note, chosen_on = _complete(typed, entry, vector, model, custom)
        notes += note
        if chosen_on:
            provenance["chosen_on"] = ", ".join(filter(None, (str(provenance.get("chosen_on") or ""), chosen_on)))
        gate = _gate_vector(intervention, vector, model, given)
        read_by_gates.append(gate)
        if gate is not None and intervention.gate_vector is not None:
            warnings += other_model_warnings(intervention.gate_vector, gate.provenance, model.name)
        if intervention.control is not None:
            vector = make_control(vector, intervention.control, _load_from_store, concepts.names())
        _check(intervention, vector, model)
        warnings += other_model_warnings(intervention.vector, vector.provenance, model.name)
        warnings += _warn_of_changed_vector(typed, vector, spec)
        interventions.append(intervention)
        vectors.append(vector)
    check_budget(spec.provenance, spec.interventions, vectors, model.name)
    complete = SteeringSpec(tuple(interventions), provenance)
    gates = tuple(read_by_gates) if any(gate is not None for gate in read_by_gates) else ()
    resolved = ResolvedSpec(complete, tuple(vectors), tuple(notes), tuple(warnings), operation=custom, gates=gates)
    return replace(resolved, norms=model.norms) if resolved.relative else resolved


def with_operation(resolved: ResolvedSpec, operation: str | Operation | OperationFunction | None) -> ResolvedSpec:
    """The same spec with another operation for all interventions; unchanged for None."""
    if operation is None:
        return resolved
    spec, custom = _replace_operation(resolved.spec, operation)
    return replace(resolved, spec=spec, operation=custom)


def _record_vector(vector: SteeringVectors) -> dict[str, Any]:
    return {"name": vector.name, "sha256": vector.sha256, "provenance": dict(vector.provenance)}


def _place(intervention: Intervention) -> str:
    """Layers and site for a folder's name: `L3`, `L8-20by4-mlp`."""
    layers = str(intervention.layer) if intervention.layers is None else intervention.layers.replace(":", "by")
    return f"L{layers}" + (f"-{intervention.site}" if intervention.site != DEFAULT_SITE else "")


def _code_hash(function: Any) -> str:
    """Tells functions of one name apart, for hashes of specs; what a function closes over does not count."""
    code = getattr(function, "__code__", None)
    where = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    return hashlib.sha256(where.encode() + (marshal.dumps(code) if code is not None else b"")).hexdigest()


def explicit_fields(intervention: Intervention) -> dict[str, Any]:
    """The intervention's fields, without the later additions to the format that are at their defaults."""
    defaults = {f.name: f.default for f in fields(Intervention) if f.name not in _ALWAYS_RECORDED}
    return {k: v for k, v in asdict(intervention).items() if k in _ALWAYS_RECORDED or v != defaults[k]}


def default_layer(n_layers: int) -> int:
    """The default layer: the block half way up, 13 of 26 or 2 of 5."""
    return n_layers // 2


def default_alpha(intervention: Intervention, custom: Operation | None = None) -> float:
    """Default alpha for the operation and scale of an intervention.

    Args:
        intervention: its alpha is ignored.
        custom: an unregistered operation that is applied in place of the intervention's.
    """
    if intervention.scale in ("relative", "token"):
        return DEFAULT_RELATIVE_ALPHA
    return (custom or operations.get(intervention.operation)).default_alpha


def _replace_operation(
    spec: SteeringSpec, operation: str | Operation | OperationFunction
) -> tuple[SteeringSpec, Operation | None]:
    """The spec with a registered operation in every intervention; an unregistered one is returned separately."""
    found = find_operation(operation)
    registered = found.name in operations and operations.get(found.name) is found
    if not registered and not found.uses_length and any(i.scale != "raw" for i in spec.interventions):
        raise UserError(f"operation={found.name}: the vector's length plays no part in it, so leave scale out")
    name = found.name if registered else Intervention("unnamed").operation
    interventions = tuple(replace(i, operation=name) for i in spec.interventions)
    return replace(spec, interventions=interventions), None if registered else found


def _gate_vector(
    intervention: Intervention, own: SteeringVectors, model: ModelFacts, given: Mapping[str, SteeringVectors] | None
) -> SteeringVectors | None:
    """What the gate of an intervention compares hidden states with; None without a gate.

    Raises:
        UserError: for a vector that does not exist, has another width, or has no direction or probe at a layer.
    """
    if intervention.gate is None:
        return None
    vector, name = own, intervention.gate_vector or intervention.vector
    if intervention.gate_vector is not None:
        known = (given or {}).get(name)
        vector = known if known is not None else SteeringVectors.load(store.find(name, backbone_of(model.name)).path)
    layers = intervention.layer_numbers if intervention.gate_layer is None else (intervention.gate_layer,)
    _check_width(name, vector, model.hidden_size, short_name(model.name))
    if vector.patches is not None:
        raise UserError(f"gate_vector={name}: it has a direction for each patch, and a gate needs one direction")
    for layer in layers:
        vector.check_norm(layer)
        if registry_of_gates.get(intervention.gate).needs_probe:
            probe_numbers(vector, layer)
    return vector


def _load_from_store(name: str) -> SteeringVectors:
    return SteeringVectors.load(store.find(name, None).path)


def _complete(
    intervention: Intervention,
    entry: store.Entry | None,
    vector: SteeringVectors,
    model: ModelFacts,
    custom: Operation | None,
) -> tuple[Intervention, list[str], str]:
    """The complete intervention, notes for the user, and the task that it was chosen on ("" for none)."""
    if entry is not None:
        intervention = replace(intervention, vector=entry.name)
    if intervention.complete:
        return intervention, [], ""
    choice = store.read_choice(entry, model.name, vector.sha256) if entry is not None else None
    chosen_on, name = "", short_name(model.name)
    values: Mapping[str, Any] = {
        "layer": default_layer(_shape_at(intervention, model)[0]),
        "alpha": default_alpha(intervention, custom),
        "tokens": DEFAULT_TOKENS,
    }
    if choice is None:
        source = f"lmms-steer's defaults, because {_explain_no_choice(entry, model)}"
    elif custom is None and _agrees(intervention, choice):
        check_budget_model(choice, model.name)
        values, chosen_on = choice, str(choice["chosen_on"])
        source = f"chosen on {chosen_on} for {name}"
    else:
        chosen = Intervention(intervention.vector, choice["layer"], choice["alpha"], choice["tokens"])
        source = f"lmms-steer's defaults, because the choice for {name}, {chosen}, does not match"
    given = {"layer"} if intervention.layer_numbers else set()
    missing = {k: values[k] for k in _CHOSEN_FIELDS if k not in given and getattr(intervention, k) is None}
    filled = replace(intervention, **missing)
    return filled, [f"steering with {filled} ({', '.join(missing)}: {source})"], chosen_on


def _explain_no_choice(entry: store.Entry | None, model: ModelFacts) -> str:
    outdated = store.outdated_choice(entry, model.name) if entry is not None else None
    if outdated is None:
        return f"nothing was chosen for {short_name(model.name)} yet"
    return (
        f"the choice for {short_name(model.name)} in {str(outdated)!r} was made for a different version of this vector"
    )


def _agrees(intervention: Intervention, choice: Mapping[str, Any]) -> bool:
    """Whether everything that was given is part of the choice.

    A choice holds as a whole only: its alpha means nothing at another layer.
    """
    given = {key: value for key, value in explicit_fields(intervention).items() if value is not None}
    # a control replaces the vector, at the vector's layer and strength
    chosen = explicit_fields(Intervention(intervention.vector, **{key: choice[key] for key in _CHOSEN_FIELDS}))
    return given.items() <= {**chosen, "control": intervention.control}.items()


def check_layers(intervention: Intervention, n_layers: int, model: str) -> None:
    """Check that a model has the layers of an intervention.

    Raises:
        UserError: with the layers that it has.
    """
    if not intervention.layer_numbers or intervention.layer_numbers[-1] >= n_layers:
        key = f"layer={intervention.layer}" if intervention.layers is None else f"layers={intervention.layers}"
        raise UserError(f"{key}: {model} has the layers 0-{n_layers - 1}")


def _check(intervention: Intervention, vector: SteeringVectors, model: ModelFacts) -> None:
    n_layers, width = _shape_at(intervention, model)
    tower = "" if sites.get(intervention.site).tower == "decoder" else "'s vision tower"
    check_layers(intervention, n_layers, f"{short_name(model.name)}{tower}")
    _check_width(intervention.vector, vector, width, f"{short_name(model.name)}{tower}")
    if vector.patches is not None:
        check_patches(intervention)
    for layer in intervention.layer_numbers:
        vector.check_norm(layer)


def _shape_at(intervention: Intervention, model: ModelFacts) -> tuple[int, int]:
    """Layers and width of the part of the model that an intervention changes.

    Raises:
        UserError: for a vision tower that the model does not have.
    """
    if sites.get(intervention.site).tower == "decoder":
        return model.n_layers, model.hidden_size
    if model.vision is None:
        raise no_vision_tower(intervention.site, short_name(model.name))
    return model.vision


def no_vision_tower(site: str, model: str) -> UserError:
    """The error for a model whose vision tower cannot be steered."""
    return UserError(f"site={site}: {model} has no vision tower whose layers are at a known place")


def _check_width(name: str, vector: SteeringVectors, width: int, model: str) -> None:
    if vector.hidden_size != width:
        raise UserError(
            f"vector {name!r} has width {vector.hidden_size}, but {model}'s hidden size is {width}: it was made from"
            f" another model ({vector.provenance.get('model', 'unknown')})"
        )


def _warn_of_changed_vector(intervention: Intervention, vector: SteeringVectors, spec: SteeringSpec) -> list[str]:
    """A warning if the spec's layer, alpha and tokens were chosen for another content of the vector."""
    chosen_for = spec.provenance.get("vector_sha256")
    if chosen_for in (None, vector.sha256) or len(spec.interventions) > 1:
        return []
    return [f"vector {intervention.vector!r} is not the one that layer, alpha and tokens were chosen for"]
