"""Layer scores from the concept's sentences: is the concept there, is its direction one, does the vector find it?"""

import numpy as np

from lmms_steer.errors import UserError
from lmms_steer.extraction.methods.linear_probe import cross_validated
from lmms_steer.extraction.methods.pca import anchor_differences
from lmms_steer.search.layer_scores import LayerContext, register_layer_score


@register_layer_score(
    "probe", description="balanced accuracy of linear probes on held-out sentences of the concept", needs="sentences",
    depends_on=(),
)  # fmt: skip
def probe(context: LayerContext) -> dict[int, float]:
    """Cross-validated over whole sentences; 0.5 is chance. The vector itself does not count."""
    accuracies = cross_validated(context.sentences.activations, context.seed)
    if not accuracies:
        raise UserError("too few sentences to hold any out")
    return {layer: accuracies[layer][1] for layer in context.layers}


@register_layer_score(
    "agreement", description="mean cosine between the differences of two anchors and their controls",
    needs="sentences", depends_on=(),
)  # fmt: skip
def agreement(context: LayerContext) -> dict[int, float]:
    """GRACE (arXiv 2605.16362): the mean over pairs i ≠ j of cos(d_i, d_j), d an anchor minus its controls' mean."""
    differences = anchor_differences(context.sentences.activations)
    count = len(differences)
    if count < 2:
        raise UserError("two anchors are needed to agree, and the sentences have one")
    units = differences / np.maximum(np.linalg.norm(differences, axis=-1, keepdims=True), 1e-12)
    # the squared length of the sum holds each pair twice, and each row's 1 with itself
    squared = (units.sum(0) ** 2).sum(-1)
    return {layer: (squared[layer] - count) / (count * (count - 1)) for layer in context.layers}


@register_layer_score(
    "separation", description="distance of anchors and controls along the vector, in standard deviations",
    needs="sentences", depends_on=("vector",),
)  # fmt: skip
def separation(context: LayerContext) -> dict[int, float]:
    """d' = (mean a - mean c) / sqrt((var a + var c) / 2) of the projections a, c on the vector (arXiv 2505.22637)."""
    activations, found = context.sentences.activations, {}
    for layer in context.layers:
        direction = context.vectors[layer].astype(np.float64)
        anchors, controls = activations.anchors[:, layer] @ direction, activations.controls[:, layer] @ direction
        spread = np.sqrt((anchors.var() + controls.var()) / 2)
        found[layer] = float((anchors.mean() - controls.mean()) / max(spread, 1e-12))
    return found
