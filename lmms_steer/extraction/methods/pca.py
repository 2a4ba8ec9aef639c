"""The main axis of the anchor - control differences, as in Representation Engineering (arXiv 2310.01405)."""

import numpy as np
import numpy.typing as npt

from lmms_steer.extraction.activations import Activations
from lmms_steer.extraction.methods import ExtractionJob, MethodResult


def pca(activations: Activations, job: ExtractionJob) -> MethodResult:  # noqa: ARG001
    """At each layer the first principal axis of the differences d and -d, unit norm, pointing to the anchors.

    A difference is an anchor minus the mean of the control tokens in its own sentence; a concept with a contrast has
    none there, and the mean of all of them is taken. Taking d with both signs is what shuffling each pair does
    in expectation: the axis of most variance then includes the mean of the differences.
    """
    differences = anchor_differences(activations)
    directions = {}
    for layer in range(differences.shape[1]):
        axis = np.linalg.svd(differences[:, layer], full_matrices=False)[2][0]
        # an axis has no sign of its own
        directions[layer] = axis if differences[:, layer].mean(0) @ axis >= 0 else -axis
    return MethodResult(directions)


def anchor_differences(activations: Activations) -> npt.NDArray[np.float64]:
    """float64 [anchors, layers, width]."""
    controls = activations.controls.astype(np.float64)
    sentence, everywhere = activations.control_sentence, controls.mean(0)
    rows = []
    for anchor, number in zip(activations.anchors.astype(np.float64), activations.anchor_sentence, strict=True):
        own = controls[sentence == number]
        rows.append(anchor - (own.mean(0) if len(own) else everywhere))
    return np.stack(rows)
