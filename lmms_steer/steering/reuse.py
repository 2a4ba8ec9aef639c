"""Use a spec that was resolved before: on a model, or in another process, which reads it by names and files."""

from contextlib import suppress
from dataclasses import replace

from lmms_steer import concepts
from lmms_steer.errors import UserError
from lmms_steer.steering.budget import check_budget
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.fit import check_fit
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.resolved import ResolvedSpec, own_code
from lmms_steer.steering.row_vectors import is_row_vector
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors import store
from lmms_steer.vectors.controls import make_control
from lmms_steer.vectors.given import name_of
from lmms_steer.vectors.steering_vectors import SteeringVectors


def check_resolved(resolved: ResolvedSpec, model: ModelFacts) -> None:
    """Check a spec that was resolved before against the model that it is given to now.

    Raises:
        UserError: for a model with other layers or another width, or for which an alpha of a KL budget was not found.
    """
    done = resolved.spec
    check_budget(done.provenance, done.interventions, resolved.vectors, model.name, own_code(*done.interventions))
    for intervention, vector in zip(done.interventions, resolved.vectors, strict=True):
        check_fit(intervention, vector, model)


def stored_spec(resolved: ResolvedSpec) -> SteeringSpec:
    """A resolved spec as names and files that have its vectors, so that another process can read it.

    Vectors that no store has are written to files. A control that its spec would not make again is named as a vector.

    Raises:
        UserError: for an operation that has no name, or vectors that cannot be saved.
    """
    if resolved.operation is not None:
        raise UserError(
            f"steering: its operation {resolved.operation.name!r} is not registered, so that no results could name it:"
            " register it with lmms_steer.register_operation"
        )
    gates = resolved.gates or (None,) * len(resolved.vectors)
    pairs = zip(resolved.spec.interventions, resolved.vectors, gates, strict=True)
    return replace(resolved.spec, interventions=tuple(_stored(*one) for one in pairs))


def _stored(intervention: Intervention, vector: SteeringVectors, gate: SteeringVectors | None) -> Intervention:
    if is_row_vector(intervention.vector):
        return intervention
    if intervention.gate_vector is not None and gate is not None:
        intervention = replace(intervention, gate_vector=name_of(gate))
    with suppress(UserError):
        made = store.load_vectors(intervention.vector)
        if intervention.control is not None:
            made = make_control(made, intervention.control, store.load_vectors, concepts.names())
        if made.sha256 == vector.sha256:
            return intervention
    return replace(intervention, vector=name_of(vector), control=None)
