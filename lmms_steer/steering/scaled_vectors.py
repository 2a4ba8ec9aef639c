"""A resolved spec ▸ what each intervention pushes with: the vector of its layer, in the strength that it says."""

from dataclasses import replace

import torch

from lmms_steer.errors import UserError
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.operations import ScaledVector
from lmms_steer.steering.resolve import Norms, ResolvedSpec
from lmms_steer.vectors.steering_vectors import SteeringVectors


def active_interventions(resolved: ResolvedSpec) -> list[tuple[Intervention, ScaledVector]]:
    """The interventions that do something, parted where image and text tokens are steered by different strengths.

    Raises:
        UserError: for a relative strength without norms, or one beyond float32.
    """
    pairs = zip(resolved.spec.interventions, resolved.vectors, strict=True)
    # a norm is of the tokens as typed: gammas near 1 do nearly what 1 does
    return [
        (part, _pushed(part, vector, _unit_of(typed, resolved.norms)))
        for typed, vector in pairs
        for part in _by_gamma(typed)
        if part.alpha != 0
    ]


def _by_gamma(intervention: Intervention) -> list[Intervention]:
    """The same intervention, in parts that each have one strength."""
    assert intervention.alpha is not None and intervention.tokens is not None
    of_image = replace(intervention, alpha=intervention.alpha * intervention.gamma_image, gamma_image=1, gamma_text=1)
    of_text = replace(intervention, alpha=intervention.alpha * intervention.gamma_text, gamma_image=1, gamma_text=1)
    if intervention.tokens == "image":
        return [of_image]
    if not intervention.tokens.startswith("both"):
        return [of_text]
    if intervention.gamma_image == intervention.gamma_text:
        return [of_image]
    text = replace(of_text, tokens=intervention.tokens.replace("both", "text"))
    return [text] if intervention.phase == "decode" else [replace(of_image, tokens="image"), text]


def _unit_of(intervention: Intervention, norms: Norms | None) -> float:
    """What alpha 1 is in the residual's units, where the vector's own length plays no part."""
    if intervention.scale != "relative":
        return 1.0
    if norms is None:
        raise UserError(
            "scale=relative: the residual norms of this model were not measured (lmms_steer.steering.recording)"
        )
    assert intervention.layer is not None and intervention.tokens is not None
    return norms[intervention.layer][intervention.tokens.removesuffix("_paper")]


def _pushed(intervention: Intervention, vector: SteeringVectors, unit_of: float) -> ScaledVector:
    """The vector of an intervention's layer, in the strength that it says."""
    assert intervention.layer is not None and intervention.alpha is not None
    direction = torch.from_numpy(vector[intervention.layer].copy())
    length = float(direction.norm())
    unit = direction / max(length, 1e-12)
    if intervention.scale == "raw":
        # alpha * v itself, rather than its length times a rounded unit vector
        push = ScaledVector(direction * intervention.alpha, unit, length * intervention.alpha, intervention.alpha)
    else:
        strength = intervention.alpha * unit_of
        push = ScaledVector(unit * strength, unit, strength, intervention.alpha)
    if not torch.isfinite(push.delta).all():
        raise UserError(f"alpha={intervention.alpha:g}: {intervention.vector!r} so long is beyond all numbers")
    return push
