"""A spec as typed ▸ one that can be attached: vectors found and checked, unsaid layer, alpha and tokens filled in."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lmms_steer import choices, concepts, store
from lmms_steer.backbones import backbone_of, short_name
from lmms_steer.controls import control_of
from lmms_steer.errors import UserError
from lmms_steer.resolved import ResolvedSpec, said
from lmms_steer.spec import Intervention, SteeringSpec
from lmms_steer.vectors import SteeringVectors

DEFAULT_ALPHA = 0.5
"""Of most specs: about a fifth of the residual's norm for mean shifts. Others: `default_alpha`."""
DEFAULT_TOKENS = "both"


def default_layer(n_layers: int) -> int:
    """The block half way up, where nothing was chosen: 13 of 26, 2 of 5."""
    return n_layers // 2


def default_alpha(intervention: Intervention) -> float:
    """A strength of the same size in the units that this one counts in: all of a component, radians, residual norms."""
    if intervention.operation == "ablate":
        return 1.0
    return 0.2 if intervention.operation == "rotate" or intervention.scale == "relative" else DEFAULT_ALPHA


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What must be known of a model to steer it: the name it was loaded by, and its decoder's shape."""

    name: str
    n_layers: int
    hidden_size: int


def resolve(spec: SteeringSpec, model: ModelFacts, given: dict[str, SteeringVectors] | None = None) -> ResolvedSpec:
    """Find, complete and check.

    Args:
        spec: as the user wrote it.
        model: the model to be steered.
        given: vectors by the name that the spec uses for them; all others are looked for in the store.

    Raises:
        UserError: for a vector that does not exist or cannot be read, a layer that the model or the vector has not,
            a width that is not the model's.
    """
    done: list[Intervention] = []
    vectors: list[SteeringVectors] = []
    notes: list[str] = []
    warnings: list[str] = []
    made = dict(spec.provenance)
    for typed in spec.interventions:
        entry = None
        if given is not None and typed.vector in given:
            vector = given[typed.vector]
        else:
            entry = store.find(typed.vector, backbone_of(model.name))
            vector = SteeringVectors.load(entry.path)
        intervention, note, chosen_on = _complete(typed, entry, vector, model)
        notes += note
        if chosen_on:
            made["chosen_on"] = ", ".join(filter(None, (str(made.get("chosen_on") or ""), chosen_on)))
        if intervention.control is not None:
            vector = control_of(vector, intervention.control, _stored, concepts.names())
        _check(intervention, vector, model)
        warnings += _foreign(intervention, vector, model)
        warnings += _changed(typed, vector, spec)
        done.append(intervention)
        vectors.append(vector)
    return ResolvedSpec(SteeringSpec(tuple(done), made), tuple(vectors), tuple(notes), tuple(warnings))


def _stored(name: str) -> SteeringVectors:
    return SteeringVectors.load(store.find(name, None).path)


def _complete(
    intervention: Intervention, entry: store.Entry | None, vector: SteeringVectors, model: ModelFacts
) -> tuple[Intervention, list[str], str]:
    """The whole intervention, what a user should know of it, and the task that it was chosen on, if any."""
    if entry is not None:
        intervention = replace(intervention, vector=entry.name)
    if intervention.complete:
        return intervention, [], ""
    choice = choices.read(entry, model.name, vector.sha256) if entry is not None else None
    chosen_on, name = "", short_name(model.name)
    values: dict[str, Any] = {
        "layer": default_layer(model.n_layers), "alpha": default_alpha(intervention), "tokens": DEFAULT_TOKENS
    }  # fmt: skip
    if choice is None:
        source = f"lmms-steer's defaults, as {_not_chosen(entry, model)}"
    elif _is_for(choice, intervention):
        values, chosen_on = choice, str(choice["chosen_on"])
        source = f"chosen on {chosen_on} for {name}"
    else:
        chosen = Intervention(intervention.vector, choice["layer"], choice["alpha"], choice["tokens"])
        source = f"lmms-steer's defaults, as the choice for {name}, {chosen}, is another"
    unsaid = {key: values[key] for key in _CHOSEN if getattr(intervention, key) is None}
    filled = replace(intervention, **unsaid)
    return filled, [f"steering with {filled} ({', '.join(unsaid)}: {source})"], chosen_on


_CHOSEN = ("layer", "alpha", "tokens")


def _not_chosen(entry: store.Entry | None, model: ModelFacts) -> str:
    kept = choices.outdated(entry, model.name) if entry is not None else None
    if kept is None:
        return f"nothing was chosen for {short_name(model.name)} yet"
    return (
        f"the choice for {short_name(model.name)} in {str(kept)!r} was made for another content of this vector and is"
        " not used"
    )


def _is_for(choice: Mapping[str, Any], intervention: Intervention) -> bool:
    """Whether what was typed is part of the choice, which is one whole: its alpha is worth nothing at another layer."""
    typed = {key: value for key, value in said(intervention).items() if value is not None}
    # a control stands where its vector would stand
    plain = said(Intervention(intervention.vector, **{key: choice[key] for key in _CHOSEN}))
    return typed.items() <= {**plain, "control": intervention.control}.items()


def _check(intervention: Intervention, vector: SteeringVectors, model: ModelFacts) -> None:
    if intervention.layer is None or intervention.layer >= model.n_layers:
        raise UserError(f"layer={intervention.layer}: {short_name(model.name)} has the layers 0-{model.n_layers - 1}")
    if vector.hidden_size != model.hidden_size:
        raise UserError(
            f"vector {intervention.vector!r} has width {vector.hidden_size},"
            f" but {short_name(model.name)}'s hidden size is {model.hidden_size}: it was made from another model"
            f" ({vector.provenance.get('model', 'unknown')})"
        )
    vector[intervention.layer]


def _changed(intervention: Intervention, vector: SteeringVectors, spec: SteeringSpec) -> list[str]:
    """A choice is worth nothing for another vector than it was made for."""
    chosen_for = spec.provenance.get("vector_sha256")
    if chosen_for in (None, vector.sha256) or len(spec.interventions) > 1:
        return []
    return [f"vector {intervention.vector!r} is not the one that layer, alpha and tokens were chosen for"]


def _foreign(intervention: Intervention, vector: SteeringVectors, model: ModelFacts) -> list[str]:
    source = vector.provenance.get("model")
    own = backbone_of(model.name)
    if source is None or source in (own, short_name(model.name)):
        return []
    expected = f"whose own is {own}" if own else "whose own backbone is not known here"
    return [f"vector {intervention.vector!r} was made from {source}, not for {short_name(model.name)}, {expected}"]
