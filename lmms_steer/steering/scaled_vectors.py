"""Scale the vectors of a resolved spec: the vector of each intervention's layer, at its strength."""

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch

from lmms_steer.errors import UserError
from lmms_steer.steering.facts import Norms
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.operations import Operation, ScaledVector
from lmms_steer.steering.placeholders import MEDIA
from lmms_steer.steering.resolved import ResolvedSpec
from lmms_steer.vectors.steering_vectors import SteeringVectors


@dataclass(frozen=True, slots=True)
class ActiveLayer:
    """What one intervention does at one layer.

    Attributes:
        intervention: at this layer alone.
        parts: with their scaled vectors; several if the gammas give kinds of tokens different strengths.
        gate: what its gate compares hidden states with; None without a gate.
    """

    intervention: Intervention
    parts: list[tuple[Intervention, ScaledVector]]
    gate: SteeringVectors | None


def active_layers(resolved: ResolvedSpec, media: Collection[str] = ("image",)) -> list[ActiveLayer]:
    """The interventions with a strength other than 0, split by layer.

    Args:
        resolved: the spec.
        media: the kinds of tokens beside text that the model has.

    Raises:
        UserError: for a relative strength without norms, or a vector that overflows float32.
    """
    found = []
    gates = resolved.gates or (None,) * len(resolved.vectors)
    for several, vector, gate in zip(resolved.spec.interventions, resolved.vectors, gates, strict=True):
        for whole in several.by_layer():
            parts = [part for part in _split_by_gamma(whole, media) if part.alpha != 0]
            # the norm is that of the tokens before the split, so that gammas near 1 have nearly the effect of 1
            scaled = [(part, _scale(part, vector, _strength_at_alpha_1(whole, resolved.norms))) for part in parts]
            if scaled:
                found.append(ActiveLayer(whole, scaled, gate))
    return found


def check_in_dtype(intervention: Intervention, vector: ScaledVector, operation: Operation, dtype: torch.dtype) -> None:
    """Check that the model's dtype can hold what an operation adds.

    Raises:
        UserError: if it overflows to infinity or is rounded to zero.
    """
    if not operation.adds_delta:
        return
    added = vector.delta.to(dtype)
    name = str(dtype).removeprefix("torch.")
    if not torch.isfinite(added).all():
        raise UserError(f"alpha={intervention.alpha:g}: the scaled vector {intervention.vector!r} overflows {name}")
    if not added.any():
        raise UserError(
            f"alpha={intervention.alpha:g}: the scaled vector {intervention.vector!r} is zero in {name}: it would"
            " change nothing"
        )


def gamma_at(intervention: Intervention, kind: str) -> float:
    """The factor on alpha at tokens of a kind: image, video, audio or text."""
    return {"audio": 1.0, "text": intervention.gamma_text}.get(kind, intervention.gamma_image)


def _split_by_gamma(intervention: Intervention, media: Collection[str]) -> list[Intervention]:
    """The same intervention as one or several, each with one strength: alpha times the gamma of its kind of tokens."""
    alpha, tokens = intervention.alpha, intervention.tokens
    assert alpha is not None and tokens is not None

    def part(kind: str, tokens: str) -> Intervention:
        gamma = gamma_at(intervention, kind)
        return replace(intervention, alpha=alpha * gamma, tokens=tokens, gamma_image=1, gamma_text=1)

    if not tokens.startswith("both"):
        return [part(tokens if tokens in MEDIA else "text", tokens)]
    if intervention.gamma_image == intervention.gamma_text and (intervention.gamma_text == 1 or "audio" not in media):
        return [part("text", tokens)]
    of_text = part("text", tokens.replace("both", "text"))
    return [of_text] if intervention.phase == "decode" else [*(part(kind, kind) for kind in media), of_text]


def _strength_at_alpha_1(intervention: Intervention, norms: Norms | None) -> float:
    """The strength of alpha 1 in the residual's units, for every scale but `raw`."""
    if intervention.scale != "relative":
        return 1.0
    if norms is None:
        raise UserError(
            "scale=relative: the residual norms of this model were not measured: call"
            " lmms_steer.measure_norms(model, processor) first, for a text model with its tokenizer"
        )
    assert intervention.layer is not None and intervention.tokens is not None
    kind = intervention.tokens.removesuffix("_paper")
    if kind not in norms[intervention.layer]:
        raise UserError(
            f"scale=relative,tokens={intervention.tokens}: the residual norms were measured without {kind} tokens,"
            " use scale=token"
        )
    return norms[intervention.layer][kind]


def _scale(intervention: Intervention, vector: SteeringVectors, strength_at_alpha_1: float) -> ScaledVector:
    """The vector of an intervention's layer at the intervention's strength."""
    assert intervention.layer is not None and intervention.alpha is not None
    direction = torch.from_numpy(vector[intervention.layer].copy())
    # of a direction for each patch, the mean length is what a user reads
    lengths = direction.norm(dim=-1)
    length = float(lengths.mean()) if direction.dim() == 2 else float(direction.norm())
    unit = (
        direction / lengths.unsqueeze(-1).clamp_min(1e-12) if direction.dim() == 2 else direction / max(length, 1e-12)
    )
    if intervention.scale == "raw":
        # alpha · v itself, because the length times a rounded unit vector would differ in the last bits
        scaled = ScaledVector(direction * intervention.alpha, unit, length * intervention.alpha, intervention.alpha)
    else:
        strength = intervention.alpha * strength_at_alpha_1
        per_token = intervention.scale == "token"
        scaled = ScaledVector(unit * strength, unit, strength, intervention.alpha, per_token)
    if not torch.isfinite(scaled.delta).all():
        raise UserError(f"alpha={intervention.alpha:g}: the scaled vector {intervention.vector!r} overflows float32")
    return scaled
