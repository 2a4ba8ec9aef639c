"""PCA: the main axis of the anchor - control differences, as in Representation Engineering (arXiv 2310.01405)."""

import numpy as np
import numpy.typing as npt

from lmms_steer.extraction.methods import Activations, ExtractionJob, MethodResult, register_method


@register_method("pca", description="first principal axis of the differences between anchor and control tokens")
def pca(activations: Activations, job: ExtractionJob) -> MethodResult:  # noqa: ARG001
    """At each layer the first principal axis of the differences d and -d, unit norm, pointing to the anchors.

    A difference is an anchor minus the mean of the control tokens in its own sentence. For a concept with a contrast,
    whose control tokens are in other sentences, the mean of all control tokens is subtracted. Taking d with both signs
    is what shuffling each pair does in expectation: the axis of most variance then includes the mean difference.
    """
    differences = anchor_differences(activations)
    directions = {}
    for layer in range(differences.shape[1]):
        axis = np.linalg.svd(differences[:, layer], full_matrices=False)[2][0]
        # the sign of a principal axis is arbitrary
        directions[layer] = axis if differences[:, layer].mean(0) @ axis >= 0 else -axis
    return MethodResult(directions)


def anchor_differences(activations: Activations) -> npt.NDArray[np.float64]:
    """Each anchor minus the mean of its sentence's control tokens: float64 [anchors, layers, width]."""
    controls = activations.controls.astype(np.float64)
    sentence, overall_mean = activations.control_sentence, controls.mean(0)
    rows = []
    for anchor, number in zip(activations.anchors.astype(np.float64), activations.anchor_sentence, strict=True):
        own = controls[sentence == number]
        rows.append(anchor - (own.mean(0) if len(own) else overall_mean))
    return np.stack(rows)
