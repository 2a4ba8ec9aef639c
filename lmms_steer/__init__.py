"""Steering vectors for multimodal language models, evaluated in the harness that you already use.

    import lmms_steer

    vectors = lmms_steer.extract("tiny-gemma2", "spatial")
    with lmms_steer.steer(model, vectors, layer=3, alpha=0.5, tokens="image"):
        model.generate(**inputs)

`search`, `layers`, `compare` and `inspect` do what the commands of these names do, and return objects with a table
(`to_pandas()`) and a figure (`plot()`). `register_operation`, `register_site`, `register_gate`, `register_method`,
`register_strategy`, `register_layer_score`, `register_contrast` and `register_prompt_format` add names that specs,
commands and recipes know. Importing the package imports no torch: each of its names is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # the names of _MODULE_OF, for type checkers
    from lmms_steer.comparison.api import Leaderboard as Leaderboard
    from lmms_steer.comparison.api import compare as compare
    from lmms_steer.errors import SteeringError as SteeringError
    from lmms_steer.errors import UserError as UserError
    from lmms_steer.extraction.api import extract as extract
    from lmms_steer.extraction.extract import Backbone as Backbone
    from lmms_steer.extraction.methods import register_method as register_method
    from lmms_steer.inspection.command import inspect as inspect
    from lmms_steer.inspection.prompt import PromptInspection as PromptInspection
    from lmms_steer.models.budget_alpha import find_alpha as find_alpha
    from lmms_steer.models.contrasts import register_contrast as register_contrast
    from lmms_steer.models.prompts import register_prompt_format as register_prompt_format
    from lmms_steer.models.residual_norms import measure_norms as measure_norms
    from lmms_steer.search.api import search as search
    from lmms_steer.search.layer_scores import register_layer_score as register_layer_score
    from lmms_steer.search.layers import layers as layers
    from lmms_steer.search.scored_layers import ScoredLayers as ScoredLayers
    from lmms_steer.search.strategies import register_strategy as register_strategy
    from lmms_steer.search.study import Study as Study
    from lmms_steer.steering.calls import continuation as continuation
    from lmms_steer.steering.gates import register_gate as register_gate
    from lmms_steer.steering.hooks import steer as steer
    from lmms_steer.steering.intervention import Intervention as Intervention
    from lmms_steer.steering.operations import register_operation as register_operation
    from lmms_steer.steering.sites import register_site as register_site
    from lmms_steer.steering.spec import SteeringSpec as SteeringSpec
    from lmms_steer.vectors.steering_vectors import SteeringVectors as SteeringVectors
    from lmms_steer.vectors.store import load_vectors as load_vectors

__version__ = "0.1.0"

_MODULE_OF = {
    "Backbone": "lmms_steer.extraction.extract",
    "Intervention": "lmms_steer.steering.intervention",
    "Leaderboard": "lmms_steer.comparison.api",
    "PromptInspection": "lmms_steer.inspection.prompt",
    "ScoredLayers": "lmms_steer.search.scored_layers",
    "SteeringError": "lmms_steer.errors",
    "SteeringSpec": "lmms_steer.steering.spec",
    "SteeringVectors": "lmms_steer.vectors.steering_vectors",
    "Study": "lmms_steer.search.study",
    "UserError": "lmms_steer.errors",
    "compare": "lmms_steer.comparison.api",
    "continuation": "lmms_steer.steering.calls",
    "extract": "lmms_steer.extraction.api",
    "find_alpha": "lmms_steer.models.budget_alpha",
    "inspect": "lmms_steer.inspection.command",
    "layers": "lmms_steer.search.layers",
    "load_vectors": "lmms_steer.vectors.store",
    "measure_norms": "lmms_steer.models.residual_norms",
    "register_contrast": "lmms_steer.models.contrasts",
    "register_layer_score": "lmms_steer.search.layer_scores",
    "register_gate": "lmms_steer.steering.gates",
    "register_method": "lmms_steer.extraction.methods",
    "register_operation": "lmms_steer.steering.operations",
    "register_prompt_format": "lmms_steer.models.prompts",
    "register_site": "lmms_steer.steering.sites",
    "register_strategy": "lmms_steer.search.strategies",
    "search": "lmms_steer.search.api",
    "steer": "lmms_steer.steering.hooks",
}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name == "search":
        # the package of this name, which can be called: importing any of its modules would put it here anyway
        return import_module("lmms_steer.search")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'lmms_steer' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*__all__, "concepts", "__all__", "__doc__", "__file__", "__name__", "__path__", "__version__"})
