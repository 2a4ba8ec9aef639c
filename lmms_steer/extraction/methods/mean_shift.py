"""Mean shift: where the anchor tokens lie on average, seen from the control tokens (the paper's; not normalised)."""

import numpy as np

from lmms_steer.extraction.activations import Activations
from lmms_steer.extraction.methods import ExtractionJob, MethodResult


def mean_shift(activations: Activations, job: ExtractionJob) -> MethodResult:  # noqa: ARG001
    """`v_l = mean(anchors_l) - mean(controls_l)`, in the residual stream's own units."""
    anchors, controls = activations.anchors.astype(np.float64), activations.controls.astype(np.float64)
    return MethodResult(dict(enumerate(anchors.mean(0) - controls.mean(0))))
