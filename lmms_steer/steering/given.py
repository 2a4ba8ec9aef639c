"""The ways to say what `steer` does: a spec, or a vector with its layer, strength and tokens as arguments."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmms_steer.errors import UserError, shorten
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.resolved import ResolvedSpec
from lmms_steer.steering.row_vectors import is_row_vector
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.steering_vectors import SteeringVectors

Steerable = (
    SteeringSpec | ResolvedSpec | SteeringVectors | Intervention | Sequence[Intervention] | str | os.PathLike[str]
)
"""What `steer` takes."""
_UNSAVED = "vectors"
"""The name of vectors whose own name no spec can hold."""
_UNSAVED_GATE = "gate"
"""The name of a gate's vectors whose own name is another's."""


@dataclass(frozen=True, slots=True)
class Given:
    """What the caller of `steer` gave.

    Attributes:
        spec: as a spec.
        vectors: by the names that the spec uses for them.
    """

    spec: SteeringSpec | ResolvedSpec
    vectors: Mapping[str, SteeringVectors]


def read_given(
    what: Steerable,
    vectors: Mapping[str, SteeringVectors] | None,
    fields: Mapping[str, Any],
) -> Given:
    """Bring what was given into the form of a spec.

    Args:
        what: vectors, the name or file of a vector, or a spec: also in one line, its YAML file, or its interventions.
        vectors: vectors by the names that a spec uses for them.
        fields: fields of the intervention that were given as arguments; None: not given.

    Raises:
        UserError: for something else, fields next to a spec, which has its own, or a field with a wrong value; for
            vectors under a name that the spec does not use.
    """
    given = _read(what, vectors, fields)
    _check_names(given.spec.spec if isinstance(given.spec, ResolvedSpec) else given.spec, vectors or {}, given.vectors)
    return given


def _read(
    what: Steerable,
    vectors: Mapping[str, SteeringVectors] | None,
    fields: Mapping[str, Any],
) -> Given:
    if not isinstance(vectors, Mapping | None):
        raise UserError(
            f"vectors={shorten(repr(vectors))}: the third argument is vectors by name; write the others with their"
            " names, as in layer=3, alpha=0.5"
        )
    is_path = isinstance(what, os.PathLike)
    if isinstance(what, os.PathLike):
        what = os.fspath(what)
    if isinstance(what, Intervention):
        what = (what,)
    if isinstance(what, list | tuple) and what and all(isinstance(one, Intervention) for one in what):
        what = SteeringSpec(tuple(what))
    if not isinstance(what, SteeringSpec | ResolvedSpec | SteeringVectors | str):
        raise UserError(_not_steerable(what))
    given = {name: value for name, value in fields.items() if value is not None}
    named = dict(vectors or {})
    gate_vector = given.get("gate_vector")
    if isinstance(gate_vector, SteeringVectors):
        name = gate_vector.name if gate_vector.name not in named else _UNSAVED_GATE
        named[name], given["gate_vector"] = gate_vector, name
    if isinstance(what, SteeringVectors):
        name = what.name if what.name not in named else _UNSAVED
        return Given(SteeringSpec((Intervention(name, **given),)), {**named, name: what})
    is_spec_file = isinstance(what, str) and what.endswith((".yaml", ".yml"))
    if isinstance(what, str) and what.strip() and (is_path or "=" not in what) and not is_spec_file:
        return Given(SteeringSpec((Intervention(what, **given),)), named)
    if given:
        listed = ", ".join(f"{name}={value}" for name, value in given.items())
        raise UserError(
            f"{listed} beside the spec {shorten(what)!r}: a spec has its own keys, so put them there, or give a vector"
        )
    if isinstance(what, str):
        return Given(SteeringSpec.from_yaml(what) if is_spec_file else SteeringSpec.parse(what), named)
    return Given(what, named)


def _check_names(spec: SteeringSpec, own: Mapping[str, SteeringVectors], known: Mapping[str, SteeringVectors]) -> None:
    """Check that no vector of the user's is left out for one of the store.

    Vectors that the spec has no use for may be there if all that it uses is given: a loop may take one after the other.

    Args:
        spec: what was given, as a spec.
        own: vectors that the user gave by name.
        known: these, and vectors that were given in another way.
    """
    every = (name for i in spec.interventions for name in (i.vector, i.gate_vector) if name is not None)
    used = [name for name in every if not is_row_vector(name)]
    unused = [name for name in own if name not in used]
    stored = [name for name in used if name not in known]
    if used and unused and (stored or len(unused) == len(own)):
        raise UserError(
            f"vectors={{{', '.join(map(repr, unused))}: …}}: the spec does not use that name, only"
            f" {', '.join(dict.fromkeys(used))}"
        )


def _not_steerable(what: object) -> str:
    expected = "expected vectors, the name or file of a vector, or a spec such as 'vector=spatial,layer=3,alpha=0.5'"
    if isinstance(what, Mapping) and "vector" in what:
        return f"{expected}, got a mapping: SteeringSpec.from_dicts([…]) makes a spec of it"
    if isinstance(what, Mapping) or hasattr(what, "shape"):
        made = 'SteeringVectors({layer: direction}, {"model": …, "concept": …, "method": …})'
        return f"{expected}, got a {type(what).__name__}: make vectors of it first, {made}"
    return f"{expected}, got {shorten(repr(what))}"
