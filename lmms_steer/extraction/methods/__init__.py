"""Extraction methods: one file and one `@register_method` each.

    @register_method("median_shift", description="difference of the medians of anchor and control tokens")
    def median_shift(activations: Activations, job: ExtractionJob) -> MethodResult:
        shift = np.median(activations.anchors, axis=0) - np.median(activations.controls, axis=0)
        return MethodResult(dict(enumerate(shift)))

A registered method can be named wherever a built-in one can, alone or with a control (`median_shift-shuffled`). An
installed package declares its methods as entry points of the group `lmms_steer.methods`.

Importing this package imports every method in this folder. None of them may import torch, scikit-learn or sae-lens
outside a function, so that listing methods stays cheap.
"""

import pkgutil
from collections.abc import Callable
from importlib import import_module

from lmms_steer.extraction.activations import Activations
from lmms_steer.extraction.job import (
    DEFAULT_SETTINGS,
    ExtractionJob,
    ExtractionSettings,
    MethodFunction,
    MethodResult,
)
from lmms_steer.vectors.controls import CONTROLS
from lmms_steer.vectors.methods import ExtractionMethod, methods

__all__ = [
    "DEFAULT_SETTINGS",
    "Activations",
    "ExtractionJob",
    "ExtractionSettings",
    "MethodFunction",
    "MethodResult",
    "register_method",
]


def register_method(
    name: str, *, description: str, uses_sae: bool = False, uses_judge: bool = False
) -> Callable[[MethodFunction], MethodFunction]:
    """Register a function as an extraction method; the decorator returns the function unchanged.

    Args:
        name: in lower case, as it is to stand in specs, file names and `--method`.
        description: one plain line, for help texts and the docs.
        uses_sae: whether the method reads a sparse autoencoder.
        uses_judge: whether the method asks a judge about its features.

    Raises:
        ValueError: for a name that is taken, malformed or that of a control.
    """
    if name in CONTROLS:
        raise ValueError(f"method {name!r} is the name of a control")

    def register(function: MethodFunction) -> MethodFunction:
        methods.add(name, ExtractionMethod(name, description, function, uses_sae, uses_judge))
        return function

    return register


for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    import_module(_module.name)
