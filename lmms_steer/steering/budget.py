"""Alphas that were resolved for a KL budget: they hold for one model, vector and place, and for nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lmms_steer.errors import UserError, shorten
from lmms_steer.steering.budget_text import is_budget, read_budget
from lmms_steer.steering.intervention import Intervention
from lmms_steer.vectors.backbones import short_name
from lmms_steer.vectors.steering_vectors import SteeringVectors
from lmms_steer.vectors.weights import describe_source, model_source, same_weights


def take_budget(keys: Mapping[str, Any]) -> tuple[dict[str, Any], float | None]:
    """The keys of a typed spec with a number in the place of a KL budget, and the budget; None for a spec without one.

    Args:
        keys: of one intervention, as typed.

    Raises:
        UserError: for a budget that is no number above 0, or whose place is not given.
    """
    if not is_budget(keys.get("alpha")) or "steering" in keys:
        return dict(keys), None
    budget = read_budget(keys["alpha"])
    if keys.get("tokens") is None or (keys.get("layer") is None and keys.get("layers") is None):
        raise UserError(f"alpha=kl:{budget:g}: the alpha is found for one place: give layer (or layers) and tokens too")
    return {**keys, "alpha": 1.0}, budget


def budget_provenance(
    intervention: Intervention,
    budget: float,
    kl: float,
    prompts: int,
    source: Mapping[str, Any],
    code: Mapping[str, str],
) -> dict[str, Any]:
    """What a spec's provenance says of the budget that its alpha was resolved for.

    Args:
        intervention: with the alpha.
        budget: mean KL(unsteered || steered) in nats.
        kl: the mean KL of that alpha.
        prompts: on how many prompts it was measured.
        source: the model, as `lmms_steer.vectors.weights.model_source` gives it.
        code: what the intervention uses that is not this package's, as `steering.resolved.own_code` gives it.
    """
    return {
        "budget": f"kl:{budget:g}",
        "budget_kl": kl,
        "budget_prompts": prompts,
        "budget_for": _place(intervention),
        "budget_model": dict(source),
        **({"budget_code": dict(code)} if code else {}),
    }


def check_budget(
    provenance: Mapping[str, Any],
    interventions: Sequence[Intervention],
    vectors: Sequence[SteeringVectors],
    model: str,
    code: Mapping[str, str],
) -> None:
    """Check that an alpha that was resolved for a budget is used for what it was resolved for.

    Args:
        provenance: of the spec.
        interventions: as the user wrote them.
        vectors: theirs, controls made.
        model: the name that the model was loaded by.
        code: as for `budget_provenance`, of the functions that are registered now.

    Raises:
        UserError: for another model or vector, another place or strength, or other code.
    """
    budget = provenance.get("budget")
    if budget is None:
        return
    named, again = _named(budget)
    if len(interventions) != 1 or _place(interventions[0]) != provenance.get("budget_for"):
        place = shorten(str(provenance.get("budget_for")))
        raise UserError(f"{named} for {place}, which this spec no longer says: {again}, or remove its provenance")
    if vectors[0].sha256 != provenance.get("vector_sha256"):
        raise UserError(f"{named} with another vector than {interventions[0].vector!r} is now: {again}")
    # older versions did not record it
    recorded = provenance.get("budget_code", code)
    if recorded != code:
        changed = [name for name in code if not isinstance(recorded, Mapping) or recorded.get(name) != code[name]]
        raise UserError(f"{named} with other code of the {', the '.join(changed) or 'spec'} than it has now: {again}")
    check_budget_model(provenance, model)


def check_budget_model(provenance: Mapping[str, Any], model: str) -> None:
    """Check that an alpha that was resolved for a budget is used on the weights that it was resolved on.

    Args:
        provenance: of a spec, or a vector's stored choice.
        model: the name that the model was loaded by.

    Raises:
        UserError: for another model.
    """
    budget = provenance.get("budget")
    if budget is None:
        return
    named, again = _named(budget)
    recorded = provenance.get("budget_model")
    source, theirs = model_source(model), recorded if isinstance(recorded, Mapping) else {}
    same = same_weights(source, theirs)
    if same is False or (same is None and theirs.get("model") != short_name(model)):
        raise UserError(f"{named} on {describe_source(theirs)}, and this is {describe_source(source)}: {again}")


def _named(budget: object) -> tuple[str, str]:
    """The parts of a message that name the budget, and say what to do."""
    text = shorten(str(budget))
    return f"the alpha was resolved for the budget {text}", f"resolve it again: lmms-steer search --alphas {text}"


def _place(intervention: Intervention) -> str:
    """Everything of an intervention but the vector's name, which may be a path."""
    return str(replace(intervention, vector="v")).removeprefix("vector=v,")
