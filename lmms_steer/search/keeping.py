"""A search's choice, kept where a spec that names the vector alone finds it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmms_steer import choices, store
from lmms_steer.backbones import backbone_of, short_name
from lmms_steer.errors import UserError
from lmms_steer.search import study
from lmms_steer.search.plan import Plan
from lmms_steer.search.report import cell
from lmms_steer.spec import Intervention, SteeringSpec


def keep(plan: Plan, found: dict[str, Any], model: str) -> Iterator[str]:
    """Keep what won, vector by vector; a line for each.

    Args:
        plan, found: of the search.
        model: the checkpoint that was searched.
    """
    for name in plan.own:
        best = found["vectors"][name]["best"]
        if not best["winner"]:
            yield f"nothing is kept for {name}: no cell won"
            continue
        path = kept(study.spec_of(plan, "", "", name, best), model)
        yield f"kept in {path}: on {short_name(model)}, vector={name} alone now means {cell(best)}"


def kept(spec: SteeringSpec, model: str) -> Path:
    """File a choice of `study.spec_of` beside its vector, or in the user's store for one that ships.

    Raises:
        UserError: for a spec that says more than a choice holds.
    """
    first = spec.interventions[0]
    if spec.interventions != (Intervention(first.vector, first.layer, first.alpha, first.tokens),):
        raise UserError(f"{spec}: a vector's choice holds layer, alpha and tokens alone: name the file, steering=…")
    made = spec.provenance
    chosen_on = f"{made['chosen_on']} ({made['questions']} questions)"
    choice = {"layer": first.layer, "alpha": first.alpha, "tokens": first.tokens, "chosen_on": chosen_on}
    path = choices.path_of(store.find(first.vector, backbone_of(model)))
    choices.write(path, model, choice | {"vector_sha256": made["vector_sha256"]})
    return path
