"""The strengths at which `inspect` lets a model continue a prompt. Imports no torch."""

from collections.abc import Sequence
from dataclasses import replace

from lmms_steer.errors import UserError
from lmms_steer.steering.spec import SteeringSpec

FACTORS = (0.0, 0.5, 1.0, 2.0)
"""The strengths that are shown if none are given, relative to the spec's own alpha."""


def check_alphas(spec: SteeringSpec, alphas: Sequence[float] | None) -> None:
    """Check that strengths can be chosen for a spec.

    Args:
        spec: as the user wrote it, or resolved.
        alphas: the user's choice; None without one.

    Raises:
        UserError: if alphas are given for a spec of none or several interventions.
    """
    n = len(spec.interventions)
    if alphas is not None and n != 1:
        count = f"{n} interventions" if n else "no intervention"
        raise UserError(f"--alphas are strengths of one intervention, and this spec has {count}")


def specs_by_strength(spec: SteeringSpec, alphas: Sequence[float] | None) -> dict[str, SteeringSpec]:
    """The specs to compare, by the names of their strengths.

    Args:
        spec: complete.
        alphas: the alphas of its intervention, shown after 0; None for 0, half, once and twice its own.

    Returns:
        `alpha 0.5` ▸ the spec at that strength; for several interventions `alphas x 0.5`, for none `unsteered`.

    Raises:
        UserError: as `check_alphas`.
    """
    check_alphas(spec, alphas)
    parts = spec.interventions
    if not parts:
        return {"unsteered": spec}
    if len(parts) > 1:
        return {
            f"alphas x {factor:g}": _with_alphas(spec, [factor * (i.alpha or 0) for i in parts]) for factor in FACTORS
        }
    chosen = [factor * (parts[0].alpha or 0) for factor in FACTORS] if alphas is None else [0.0, *alphas]
    return {f"alpha {alpha:g}": _with_alphas(spec, [alpha]) for alpha in chosen}


def _with_alphas(spec: SteeringSpec, alphas: Sequence[float]) -> SteeringSpec:
    parts = tuple(replace(part, alpha=alpha) for part, alpha in zip(spec.interventions, alphas, strict=True))
    return replace(spec, interventions=parts)
