"""Vectors of single questions: `vector=@image_contrast` has another direction for each row of a batch.

Who runs the model computes the directions beforehand, unsteered, and gives them to the hooks for the time of a call and
in its own thread. The specs' machinery sees a placeholder with the right shape, which is never applied.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lmms_steer.errors import SteeringError, UserError, unknown_name
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.operations import ScaledVector
from lmms_steer.steering.sites import sites
from lmms_steer.vectors.backbones import short_name
from lmms_steer.vectors.steering_vectors import SteeringVectors

if TYPE_CHECKING:
    from torch import Tensor

    from lmms_steer.steering.spec import SteeringSpec

PREFIX = "@"
"""The first character of the name of such a vector."""
ROW_VECTORS = {
    "@image_contrast": "the question with its image minus the question without it",
    "@image_contrast_blank": "the question with its image minus the question with a grey image of the same size",
}
"""Name ▸ what a row's direction is; of the residual at the last token of the prompt, at the steered layer."""
OPERATIONS = ("add", "norm_preserving", "norm_preserving_weighted")
"""The operations that take a direction for each row."""
_EXPECTED = f"expected {', '.join(OPERATIONS[:-1])} or {OPERATIONS[-1]}"

RowVectors = Mapping[str, Mapping[int, "Tensor"]]
"""Name ▸ layer ▸ float32 [rows, width]; empty where the model is to run unsteered."""
_rows: ContextVar[RowVectors | None] = ContextVar("lmms_steer_row_vectors", default=None)


def is_row_vector(name: str) -> bool:
    """Whether a name is that of a vector of single questions."""
    return name.startswith(PREFIX)


def placeholder(intervention: Intervention, model: str, n_layers: int, width: int) -> SteeringVectors:
    """What stands for the vector of an intervention in a resolved spec, with its provenance.

    Raises:
        UserError: for a name that does not exist, a control, or an operation or gate that needs one direction for all
            rows.
    """
    name = intervention.vector
    if name not in ROW_VECTORS:
        raise unknown_name("vector of single questions", name, ROW_VECTORS)
    if intervention.control is not None:
        raise UserError(f"vector={name},control={intervention.control}: it has no control; shuffle or blank the images")
    if intervention.operation not in OPERATIONS:
        raise UserError(f"vector={name},operation={intervention.operation}: {_EXPECTED}")
    if sites.get(intervention.site).tower == "vision":
        raise UserError(f"vector={name},site={intervention.site}: its directions are of the language model's layers")
    if intervention.gate is not None and intervention.gate_vector is None:
        raise UserError(f"vector={name},gate={intervention.gate}: the gate needs one direction: add gate_vector=…")
    provenance = {
        "model": short_name(model),
        "concept": name.removeprefix(PREFIX),
        "method": "row",
        "n_layers": n_layers,
        "hidden_size": width,
    }
    return SteeringVectors(dict.fromkeys(range(n_layers), np.eye(1, width, dtype=np.float32)[0]), provenance)


def check_patches(intervention: Intervention) -> None:
    """Check that a vector with a direction for each patch can be used as an intervention uses it.

    Raises:
        UserError: for a site where there are no patches, or an operation that needs one direction.
    """
    name = intervention.vector
    if sites.get(intervention.site).tower != "vision":
        raise UserError(f"vector={name},site={intervention.site}: it has a direction for each patch: add site=vision")
    if intervention.operation not in OPERATIONS:
        raise UserError(
            f"vector={name},operation={intervention.operation}: of a vector with a direction for each patch,"
            f" {_EXPECTED}"
        )


def refuse_row_vectors(spec: "SteeringSpec", allowed: bool = False) -> None:
    """Check that a spec names no vector of single questions where nothing computes them.

    Raises:
        UserError: for one that does.
    """
    for intervention in spec.interventions:
        if is_row_vector(intervention.vector) and not allowed:
            raise UserError(
                f"vector={intervention.vector} has another direction for each question: it is for evaluations with"
                " lmms-eval and steered_hf, steered_paligemma or steered_idefics3"
            )


def row_layers(spec: "SteeringSpec") -> dict[str, set[int]]:
    """Name ▸ layers of the row vectors that a complete spec needs."""
    needed: dict[str, set[int]] = {}
    for intervention in spec.interventions:
        if is_row_vector(intervention.vector) and intervention.alpha:
            needed.setdefault(intervention.vector, set()).update(intervention.layer_numbers)
    return needed


@contextmanager
def row_vectors(given: RowVectors) -> Iterator[None]:
    """Steer the forward calls in the block, and in this thread, with these vectors; with {}, steer nothing at all."""
    token = _rows.set(given)
    try:
        yield
    finally:
        _rows.reset(token)


def runs_unsteered() -> bool:
    """Whether the model runs unsteered here, so that row vectors can be computed."""
    return _rows.get() == {}


def of_rows(intervention: Intervention, scaled: ScaledVector, hidden: "Tensor") -> ScaledVector:
    """The scaled vector of an intervention with the directions of the rows of a call.

    Args:
        intervention: with a row vector.
        scaled: that of the placeholder, with the strength of the intervention's scale.
        hidden: the layer's output [batch, positions, width]; the batch may hold several rows for each question (beams).

    Returns:
        a scaled vector whose `delta` and `unit` are [batch, 1, width].

    Raises:
        SteeringError: where nobody has computed the directions, or for another number of questions.
    """
    given = _rows.get()
    if given is None or intervention.vector not in given:
        raise SteeringError(
            f"vector={intervention.vector} has another direction for each question, which only the evaluation of a"
            " model of ours in lmms-eval computes (steered_hf, steered_paligemma, steered_idefics3)"
        )
    assert intervention.layer is not None
    directions = given[intervention.vector][intervention.layer].to(hidden.device)
    if len(hidden) % len(directions):
        raise SteeringError(f"the model runs on {len(hidden)} rows, but the vectors are of {len(directions)} questions")
    directions = directions.repeat_interleave(len(hidden) // len(directions), 0).unsqueeze(1)
    unit = directions / directions.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    delta = directions * scaled.alpha if intervention.scale == "raw" else unit * scaled.strength
    return replace(scaled, delta=delta, unit=unit)
