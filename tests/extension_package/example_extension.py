"""One extension of each kind, as a user of the package would write them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lmms_steer import (
    register_gate,
    register_layer_score,
    register_method,
    register_operation,
    register_prompt_format,
    register_site,
    register_strategy,
)
from lmms_steer.extraction.methods import MethodResult
from lmms_steer.search.strategies import Rung, Strategy, StrategyContext

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lmms_steer.extraction.activations import Activations
    from lmms_steer.extraction.methods import ExtractionJob
    from lmms_steer.search.layer_scores import LayerContext
    from lmms_steer.steering.gates import Probe
    from lmms_steer.steering.operations import ScaledVector


@register_method("median_shift", description="the median of the anchors minus the median of the controls")
def median_shift(activations: "Activations", job: "ExtractionJob") -> MethodResult:  # noqa: ARG001
    """At each layer the difference of the medians."""
    return MethodResult(dict(enumerate(np.median(activations.anchors, 0) - np.median(activations.controls, 0))))


@register_operation("half_add", description="h' = h + s u / 2", effect="half of {s:.4g} along v is added")
def half_add(hidden: "Tensor", vector: "ScaledVector") -> "Tensor":
    """Add half of the scaled vector."""
    return hidden + vector.delta / 2


@register_site("normed", description="the output of the norm after the layer's MLP")
def normed(layer: "nn.Module") -> "nn.Module | None":
    """The norm after the MLP of Gemma 2."""
    return dict(layer.named_children()).get("post_feedforward_layernorm")


@register_gate("long", description="|h|", threshold=0.0)
def long(hidden: "Tensor", probe: "Probe") -> "Tensor":  # noqa: ARG001
    """The norm of hidden states."""
    lengths: Tensor = hidden.norm(dim=-1)
    return lengths


@register_strategy("strongest_alpha", description="the grid's largest alpha only")
def strongest_alpha(search: StrategyContext) -> Strategy:
    """Measure the cells of the largest alpha on all questions."""
    yield Rung([cell for cell in search.cells if cell.alpha == max(search.alphas)], range(search.n))


@register_layer_score("early", description="the number of layers above", needs="nothing")
def early(context: "LayerContext") -> dict[int, float]:
    """Prefer early layers."""
    return {layer: float(max(context.layers) - layer) for layer in context.layers}


@register_prompt_format("polite", description="PaliGemma's, 'please' before the question", matches=lambda _: False)
def polite(processor: Any, questions: Sequence[str], visuals: Sequence[Any], answers: Sequence[str] | None) -> Any:
    """Put a word before every question."""
    from lmms_steer.models.prompt_formats import paligemma_prefix

    return paligemma_prefix(processor, [f"please {question}" for question in questions], visuals, answers)
