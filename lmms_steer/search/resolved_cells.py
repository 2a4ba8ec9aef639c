"""The vectors of a search, with the keys that all cells share, resolved for a model."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lmms_steer._util.formatting import format_layers
from lmms_steer.errors import UserError
from lmms_steer.extraction.first_use import extract_missing
from lmms_steer.search.fixed_keys import FixedKeys
from lmms_steer.search.options import SearchOptions
from lmms_steer.search.plan import split_control
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.fit import no_vision_tower
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.resolve import resolve
from lmms_steer.steering.resolved import ResolvedSpec, own_code
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import backbone_of, short_name
from lmms_steer.vectors.steering_vectors import SteeringVectors


def layers_at(keys: FixedKeys, facts: ModelFacts) -> int:
    """How many layers there are where the cells act.

    Raises:
        UserError: for a vision tower that the model does not have.
    """
    if not keys.in_tower:
        return facts.n_layers
    if facts.vision is None:
        raise no_vision_tower(keys.intervention.site, short_name(facts.name))
    return facts.vision[0]


def spec_of(keys: FixedKeys, name: str) -> SteeringSpec:
    """A vector with the keys, and without layer, alpha and tokens.

    Args:
        keys: the keys.
        name: a vector, or a control by the name that cells use.
    """
    vector, control = split_control(name)
    return SteeringSpec((replace(keys.intervention, vector=vector, control=control),))


def resolve_cells(options: SearchOptions, layers: Sequence[int], facts: ModelFacts) -> dict[str, ResolvedSpec]:
    """Every vector and control by the name that cells use, as a spec of all the layers to search.

    Its alpha and tokens stand in the place of a cell's.

    Raises:
        UserError: for a vector, a gate or a layer that the model cannot be steered with.
    """
    found = {}
    for name in options.names:
        (intervention,) = spec_of(options.fixed_keys, name).interventions
        placed = replace(intervention, layers=",".join(map(str, layers)), alpha=1.0, tokens=options.targets[0])
        spec = SteeringSpec((placed,))
        list(extract_missing(spec, facts.name))
        found[name] = resolve(spec, facts)
    return found


def with_norms(cells: Mapping[str, ResolvedSpec], lm: Any) -> dict[str, ResolvedSpec]:
    """The same with the model's residual norms, where strengths are relative to them.

    Args:
        cells: as `resolve_cells` returns them.
        lm: the unsteered model.
    """
    from lmms_steer.models.residual_norms import with_residual_norms

    processor = getattr(lm, "processor", None) or lm.tokenizer
    prompt_format = getattr(lm, "prompt_format", None)
    return {
        name: with_residual_norms(
            cell, lm.model, processor, lm.pretrained, prompt_format=prompt_format, text_only=lm.text_only
        )
        for name, cell in cells.items()
    }


def gate_sha256(options: SearchOptions, cells: Mapping[str, ResolvedSpec]) -> str | None:
    """Hash of the vector that the gate of all cells names; None where it names none."""
    if options.fixed_keys.intervention.gate_vector is None:
        return None
    gates = next(iter(cells.values())).gates
    return gates[0].sha256 if gates and gates[0] is not None else None


def steerable_layers(names: Sequence[str], layers: Sequence[int], facts: ModelFacts) -> tuple[int, ...]:
    """Those of the layers where every vector has a direction; vectors that are in no store are extracted first.

    Raises:
        UserError: for a vector that does not exist, or where no layer is left.
    """
    steerable = tuple(layers)
    for name in names:
        list(extract_missing(SteeringSpec((Intervention(name),)), facts.name))
        vector = SteeringVectors.load(store.find(name, backbone_of(facts.name)).path)
        left = tuple(layer for layer in steerable if vector.can_steer(layer))
        if not left:
            has = format_layers(tuple(layer for layer in vector if vector.can_steer(layer))) or "none"
            raise UserError(
                f"vector {name!r} has a direction at layer {has}, and at none of the layers to search,"
                f" {format_layers(steerable)}: choose others with --layers"
            )
        steerable = left
    return steerable


def resolved_vector(name: str, layer: int, facts: ModelFacts) -> SteeringVectors:
    """A vector or its control, checked against the model. layer: any at which the vector has a direction."""
    return resolve(SteeringSpec((Intervention(name, layer, 1.0, "text"),)), facts).vectors[0]


def own_code_sha256(options: SearchOptions, lm: Any, scores: str | None = None) -> str | None:
    """Hash of the code that is not this package's and that answers or their scores depend on; None without any.

    The code of a strategy does not count: it decides which cells are measured, not what is measured in a cell.

    Args:
        options: what to search.
        lm: the unsteered model.
        scores: hash of the code that scores answers, where it is the user's own.
    """
    from lmms_steer.models.prompts import prompt_formats

    used = own_code(options.fixed_keys.intervention)
    prompt_format = getattr(lm, "prompt_format", None)
    code = prompt_formats.code(prompt_format.name) if prompt_format is not None else None
    used |= {"prompt format": code} if code is not None else {}
    used |= {"scores": scores} if scores is not None else {}
    return hashlib.sha256(json.dumps(used, sort_keys=True).encode()).hexdigest() if used else None
