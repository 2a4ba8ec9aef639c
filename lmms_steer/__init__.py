"""Steering vectors for multimodal language models, evaluated in the harness that you already use.

    from lmms_steer import steer

    with steer(model, "vector=spatial,layer=3,alpha=0.5,tokens=image"):
        model.generate(**inputs)

`register_operation`, `register_method`, `register_strategy` and `register_prompt_format` add names that specs, commands
and recipes know. Importing the package imports no torch: each of its names is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # the names of _MODULE_OF, for type checkers
    from lmms_steer.errors import SteeringError as SteeringError
    from lmms_steer.errors import UserError as UserError
    from lmms_steer.extraction.extract import Backbone as Backbone
    from lmms_steer.extraction.methods import register_method as register_method
    from lmms_steer.models.prompts import register_prompt_format as register_prompt_format
    from lmms_steer.models.residual_norms import measure_norms as measure_norms
    from lmms_steer.search.strategies import register_strategy as register_strategy
    from lmms_steer.steering.calls import continuation as continuation
    from lmms_steer.steering.hooks import steer as steer
    from lmms_steer.steering.intervention import Intervention as Intervention
    from lmms_steer.steering.operations import register_operation as register_operation
    from lmms_steer.steering.spec import SteeringSpec as SteeringSpec
    from lmms_steer.vectors.steering_vectors import SteeringVectors as SteeringVectors

__version__ = "0.1.0"

_MODULE_OF = {
    "Backbone": "lmms_steer.extraction.extract",
    "Intervention": "lmms_steer.steering.intervention",
    "SteeringSpec": "lmms_steer.steering.spec",
    "SteeringVectors": "lmms_steer.vectors.steering_vectors",
    "SteeringError": "lmms_steer.errors",
    "UserError": "lmms_steer.errors",
    "continuation": "lmms_steer.steering.calls",
    "measure_norms": "lmms_steer.models.residual_norms",
    "register_method": "lmms_steer.extraction.methods",
    "register_operation": "lmms_steer.steering.operations",
    "register_prompt_format": "lmms_steer.models.prompts",
    "register_strategy": "lmms_steer.search.strategies",
    "steer": "lmms_steer.steering.hooks",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'lmms_steer' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})
