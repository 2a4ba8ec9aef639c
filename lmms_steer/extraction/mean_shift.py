"""Mean shift: where the anchor tokens lie on average, seen from the control tokens (the paper's; not normalised)."""

import numpy as np

from lmms_steer.extraction.activations import Activations, Rows


def mean_shift(activations: Activations) -> Rows:
    """`v_l = mean(anchors_l) - mean(controls_l)`: float32 [layers, width]."""
    anchors, controls = activations.anchors.astype(np.float64), activations.controls.astype(np.float64)
    shift: Rows = (anchors.mean(0) - controls.mean(0)).astype(np.float32)
    return shift
