"""Resolve a spec for a model: find and check its vectors, and fill in layer, alpha and tokens where they are not given.

`resolve` returns a `ResolvedSpec`, which can be attached, hashed, named and recorded.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lmms_steer import concepts
from lmms_steer.errors import UserError
from lmms_steer.steering.budget import check_budget, check_budget_model
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.fit import check_fit, check_width, shape_at
from lmms_steer.steering.gates import gates as registry_of_gates
from lmms_steer.steering.gates import probe_numbers
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.operations import Operation, OperationFunction, operations
from lmms_steer.steering.origin import other_model_warnings
from lmms_steer.steering.resolved import ResolvedSpec, explicit_fields, own_code, replace_operation
from lmms_steer.steering.row_vectors import is_row_vector, placeholder
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import backbone_of, short_name
from lmms_steer.vectors.controls import make_control, parse_control
from lmms_steer.vectors.steering_vectors import SteeringVectors

DEFAULT_TOKENS = "both"
DEFAULT_RELATIVE_ALPHA = 0.2
"""Default alpha for the scales relative and token: about the strength of a mean shift at an operation's default."""

_CHOSEN_FIELDS = ("layer", "alpha", "tokens")
"""What a stored choice fills in."""


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
            have, a width that is not the model's, or a wrong concept that is another vector's too.
    """
    custom = None
    if operation is not None:
        spec, custom = replace_operation(spec, operation)
    interventions: list[Intervention] = []
    read_by_gates: list[SteeringVectors | None] = []
    vectors: list[SteeringVectors] = []
    notes: list[str] = []
    warnings: list[str] = []
    provenance = dict(spec.provenance)
    controlled: list[str] = []
    wrong: dict[tuple[str, int], Intervention] = {}
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
        before_control = vector
        if intervention.control is not None:
            if vector.sha256 not in controlled:
                controlled.append(vector.sha256)
            draw = controlled.index(vector.sha256)
            vector = make_control(vector, intervention.control, _load_from_store, concepts.names(), draw)
            _check_wrong_concept(intervention, vector, wrong)
        check_fit(intervention, vector, model)
        warnings += other_model_warnings(intervention.vector, vector.provenance, model.name)
        warnings += _warn_of_changed_vector(typed, {before_control.sha256, vector.sha256}, spec)
        interventions.append(intervention)
        vectors.append(vector)
    check_budget(spec.provenance, spec.interventions, vectors, model.name, own_code(*spec.interventions))
    complete = SteeringSpec(tuple(interventions), provenance)
    gates = tuple(read_by_gates) if any(gate is not None for gate in read_by_gates) else ()
    resolved = ResolvedSpec(complete, tuple(vectors), tuple(notes), tuple(warnings), operation=custom, gates=gates)
    return replace(resolved, norms=model.norms) if resolved.relative else resolved


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
    check_width(name, vector, model.hidden_size, short_name(model.name))
    if vector.patches is not None:
        raise UserError(f"gate_vector={name}: it has a direction for each patch, and a gate needs one direction")
    for layer in layers:
        vector.check_norm(layer)
        if registry_of_gates.get(intervention.gate).needs_probe:
            probe_numbers(vector, layer)
    return vector


def _check_wrong_concept(
    intervention: Intervention, control: SteeringVectors, before: dict[tuple[str, int], Intervention]
) -> None:
    """Check that no other vector of a spec has the same wrong concept at a layer: one minus the other would be none.

    Args:
        intervention: with a control.
        control: its control.
        before: the name and a layer of a wrong concept ▸ the intervention that has it; this one is added.
    """
    if parse_control(str(intervention.control))[0] != "wrong_concept":
        return
    for layer in intervention.layer_numbers:
        other = before.setdefault((control.name, layer), intervention)
        if other.vector != intervention.vector:
            raise UserError(
                f"control={intervention.control}: {other.vector} and {intervention.vector} would both become"
                f" {control.name} at layer {layer}: name another concept for each, control=wrong_concept:NAME"
            )


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
    choice = store.read_choice(entry, model.name, vector.sha256, model.revision) if entry is not None else None
    chosen_on, name = "", short_name(model.name)
    values: Mapping[str, Any] = {
        "layer": default_layer(shape_at(intervention, model)[0]),
        "alpha": default_alpha(intervention, custom),
        "tokens": DEFAULT_TOKENS,
    }
    if choice is None:
        source = f"lmms-steer's defaults, because {_explain_no_choice(intervention, entry, vector, model)}"
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


def _explain_no_choice(
    intervention: Intervention, entry: store.Entry | None, vector: SteeringVectors, model: ModelFacts
) -> str:
    if entry is None and not is_row_vector(intervention.vector):
        return "a choice belongs to a name in a store, and these vectors were given themselves"
    unused = store.explain_unused_choice(entry, model.name, vector.sha256) if entry is not None else None
    return unused or f"nothing was chosen for {short_name(model.name)} yet"


def _agrees(intervention: Intervention, choice: Mapping[str, Any]) -> bool:
    """Whether everything that was given is part of the choice.

    A choice holds as a whole only: its alpha means nothing at another layer.
    """
    given = {key: value for key, value in explicit_fields(intervention).items() if value is not None}
    # a control replaces the vector, at the vector's layer and strength
    chosen = explicit_fields(Intervention(intervention.vector, **{key: choice[key] for key in _CHOSEN_FIELDS}))
    return given.items() <= {**chosen, "control": intervention.control}.items()


def _warn_of_changed_vector(intervention: Intervention, hashes: set[str], spec: SteeringSpec) -> list[str]:
    """A warning if the spec's layer, alpha and tokens were chosen for another content of the vector.

    `hashes` are the vector's own and its control's: a control has its own choice, or the vector's.
    """
    chosen_for = spec.provenance.get("vector_sha256")
    if chosen_for is None or chosen_for in hashes or len(spec.interventions) > 1:
        return []
    return [f"vector {intervention.vector!r} is not the one that layer, alpha and tokens were chosen for"]
