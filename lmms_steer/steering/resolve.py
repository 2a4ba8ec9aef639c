"""A spec that can be attached, with its vectors; its hash, its name and what a results file says of it.

A spec as typed ▸ one that can be attached: vectors found and checked, unsaid layer, alpha and tokens filled in.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from lmms_steer import concepts
from lmms_steer.errors import UserError
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors import store
from lmms_steer.vectors import store as choices
from lmms_steer.vectors.backbones import backbone_of, short_name
from lmms_steer.vectors.controls import make_control
from lmms_steer.vectors.steering_vectors import SteeringVectors

Norms = Mapping[int, Mapping[str, float]]
"""layer ▸ `image`, `text`, `both`, `last` ▸ mean norm of the residual there (`lmms_steer.steering.recording`)."""


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
        done: list[Any] = [{**explicit_fields(i), "vector": v.sha256} for i, v in pairs]
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


def explicit_fields(intervention: Intervention) -> dict[str, Any]:
    """Its keys without those at a default that nobody has to say."""
    always = {"vector", "layer", "alpha", "tokens", "phase", "operation"}
    unsaid = {f.name: f.default for f in fields(Intervention) if f.name not in always}
    return {k: v for k, v in asdict(intervention).items() if k in always or v != unsaid[k]}


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
            vector = make_control(vector, intervention.control, _stored, concepts.names())
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
    choice = choices.read_choice(entry, model.name, vector.sha256) if entry is not None else None
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
    unsaid = {key: values[key] for key in _CHOSEN_KEYS if getattr(intervention, key) is None}
    filled = replace(intervention, **unsaid)
    return filled, [f"steering with {filled} ({', '.join(unsaid)}: {source})"], chosen_on


_CHOSEN_KEYS = ("layer", "alpha", "tokens")


def _not_chosen(entry: store.Entry | None, model: ModelFacts) -> str:
    kept = choices.outdated_choice(entry, model.name) if entry is not None else None
    if kept is None:
        return f"nothing was chosen for {short_name(model.name)} yet"
    return (
        f"the choice for {short_name(model.name)} in {str(kept)!r} was made for another content of this vector and is"
        " not used"
    )


def _is_for(choice: Mapping[str, Any], intervention: Intervention) -> bool:
    """Whether what was typed is part of the choice, which is one whole: its alpha is worth nothing at another layer."""
    typed = {key: value for key, value in explicit_fields(intervention).items() if value is not None}
    # a control stands where its vector would stand
    plain = explicit_fields(Intervention(intervention.vector, **{key: choice[key] for key in _CHOSEN_KEYS}))
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
