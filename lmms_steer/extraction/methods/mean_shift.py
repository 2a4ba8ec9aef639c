"""Mean shift (the paper's): the mean of the anchor tokens minus the mean of the control tokens, not normalised."""

import numpy as np

from lmms_steer.extraction.methods import Activations, ExtractionJob, MethodResult, register_method


@register_method("mean_shift", description="mean of the anchor tokens minus mean of the control tokens")
def mean_shift(activations: Activations, job: ExtractionJob) -> MethodResult:  # noqa: ARG001
    """`v_l = mean(anchors_l) - mean(controls_l)`, in the residual stream's own units."""
    anchors, controls = activations.anchors.astype(np.float64), activations.controls.astype(np.float64)
    return MethodResult(dict(enumerate(anchors.mean(0) - controls.mean(0))))
