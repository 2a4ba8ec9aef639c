"""Steer multimodal language models inside the evaluation harness that you already use.

    from lmms_steer import steer

    with steer(model, "vector=spatial,layer=3,alpha=0.5,tokens=image"):
        model.generate(**inputs)

Importing the package imports no torch: the names below are loaded when they are first used.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_steer.errors import UserError
    from lmms_steer.steering.hooks import steer
    from lmms_steer.steering.intervention import Intervention
    from lmms_steer.steering.spec import SteeringSpec
    from lmms_steer.vectors.steering_vectors import SteeringVectors

__version__ = "0.1.0"
__all__ = ["Intervention", "SteeringSpec", "SteeringVectors", "UserError", "steer"]

_HOME = {
    "Intervention": "lmms_steer.steering.spec",
    "SteeringSpec": "lmms_steer.steering.spec",
    "SteeringVectors": "lmms_steer.vectors.steering_vectors",
    "UserError": "lmms_steer.errors",
    "steer": "lmms_steer.steering.hooks",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'lmms_steer' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
