"""What a method returned, checked before it is stored, and without its component along another vector."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt

from lmms_steer.errors import UserError, shorten
from lmms_steer.extraction.activations import Activations
from lmms_steer.extraction.job import MethodResult
from lmms_steer.vectors.steering_vectors import SteeringVectors

PARALLEL = 1e-5
"""Of a direction's norm, the share that counts as rounding once the component along another one is removed."""


def check_result(result: object, what: str, activations: Activations) -> None:
    """Check what a method returned, before it is stored.

    Args:
        result: what it returned.
        what: concept and method, for the message.
        activations: that it was given.

    Raises:
        UserError: for anything but directions of the model's layers and width; for settings that are no mapping, notes
            or libraries that are no texts, and a library that is not installed.
    """
    if not isinstance(result, MethodResult):
        raise UserError(f"{what}: the method returned a {type(result).__name__}, and not a MethodResult")
    if not isinstance(result.directions, Mapping):
        raise UserError(f"{what}: MethodResult takes layer ▸ direction, and not a {type(result.directions).__name__}")
    n_layers, width = activations.anchors.shape[1:]
    # a random control of patches is drawn in their shape
    shapes = [(width,)] if activations.tower is None else [(width,), activations.tower[1:]]
    if not isinstance(result.settings, Mapping):
        raise UserError(f"{what}: MethodResult takes settings as a mapping, and not a {type(result.settings).__name__}")
    for name in ("notes", "libraries"):
        texts = getattr(result, name)
        if not isinstance(texts, tuple | list) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"{what}: MethodResult takes {name} as a tuple of texts, got {shorten(repr(texts))}")
    for library in result.libraries:
        try:
            version(library)
        except PackageNotFoundError as error:
            raise UserError(f"{what}: MethodResult names the library {library!r}, which is not installed") from error
    for layer, direction in result.directions.items():
        if layer not in range(n_layers) or np.shape(direction) not in shapes:
            raise UserError(
                f"{what}: the method returned the shape {list(np.shape(direction))} for layer {layer!r}, expected"
                f" [{width}] for some of the layers 0-{n_layers - 1}"
            )


def without_component(
    directions: Mapping[int, npt.NDArray[Any]], removed: SteeringVectors
) -> dict[int, npt.NDArray[Any]]:
    """`v' = v - (v·u) u` at each layer, where u is the unit direction of other vectors (arXiv 2602.11824, section 3).

    Of a direction that is parallel to u nothing is left, exactly.

    Raises:
        UserError: for vectors of another width, or without one of the layers.
    """
    found = {}
    for layer, direction in directions.items():
        if layer not in removed.directions:
            raise UserError(f"orthogonal to {removed.name}: it has no direction at layer {layer}")
        other = removed[layer].astype(np.float64)
        if other.shape != direction.shape:
            raise UserError(f"orthogonal to {removed.name}: its width is {len(other)}, not {len(direction)}")
        unit = other / max(float(np.linalg.norm(other)), 1e-12)
        rest = direction - (direction @ unit) * unit
        # what is left of a parallel direction is rounding, which a unit scale would steer with
        is_parallel = np.linalg.norm(rest) <= PARALLEL * np.linalg.norm(direction)
        found[layer] = np.zeros_like(rest) if is_parallel else rest
    return found
