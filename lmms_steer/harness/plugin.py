"""What `--model` and `--model_args` may name. Imports no other package: lmms-eval reads it whenever it starts.

What the harnesses load by entry point, at every `import lmms_eval.models`: it stays light and never raises.
"""

import logging
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lmms_steer.errors import UserError, first_line

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

MODELS = {
    "steered_paligemma": "lmms_steer.harness.steered.SteeredPaliGemma",
    "steered_idefics3": "lmms_steer.harness.steered.SteeredIdefics3",
    "steered_hf": "lmms_steer.harness.steered.SteeredVlm",
}
"""`--model` name ▸ class. All are *simple*: lmms-eval's chat models cannot answer log-likelihood requests."""


@cache
def wrapped_names() -> frozenset[str]:
    """`steered_NAME` of each of lmms-eval's own wrappers, from its files: its registry takes seconds to import."""
    spec = find_spec("lmms_eval")
    root = Path(spec.submodule_search_locations[0]) / "models" if spec and spec.submodule_search_locations else None
    files = [path for kind in ("simple", "chat") for path in (root / kind).glob("*.py")] if root else []
    return frozenset(f"steered_{path.stem}" for path in files if not path.stem.startswith("_"))


ENGINES = ("vllm", "sglang", "api", "openai", "gemini", "claude", "gpt", "litellm", "reka", "fastvideo", "trtllm")
"""Parts of the names of wrappers whose model runs elsewhere."""


def runs_in_engine(model: str) -> bool:
    """Whether one of lmms-eval's wrappers (`vllm`) runs its model elsewhere."""
    return any(part in model.split("_") for part in ENGINES)


def engine_error(model: str) -> UserError:
    """The error for one of those."""
    return UserError(f"{model} runs its model in an engine or behind an API, out of reach: it cannot be steered")


def manifests() -> "list[ModelManifest]":
    """Our models, for lmms-eval's registry; and our tasks, for its index."""
    from lmms_eval.models.registry_v2 import ModelManifest

    try:
        # the list commands (`lmms-eval models`) need no task, and the import behind this line takes ten seconds
        if "lmms_eval.cli.models_cmd" not in sys.modules:
            from lmms_steer.harness.patches import index_our_tasks

            index_our_tasks()
        # `lmms-eval models` lists these tables, not the registry
        listed = getattr(sys.modules.get("lmms_eval.models"), "AVAILABLE_SIMPLE_MODELS", {})
        for name, path in MODELS.items():
            listed.setdefault(name, path)
    except Exception as error:  # noqa: BLE001  an error here would cost every other plugin its models
        logging.getLogger(__name__).warning("use --include_path, our tasks could not be added: %s", first_line(error))
    ours = [ModelManifest(name, simple_class_path=path) for name, path in MODELS.items()]
    return ours + [manifest for name in _theirs() if (manifest := _steered(name)).model_id not in MODELS]


def _theirs() -> list[str]:
    """The names of lmms-eval's own wrappers."""
    models = sys.modules.get("lmms_eval.models")
    tables = (getattr(models, f"AVAILABLE_{kind}_MODELS", {}) for kind in ("SIMPLE", "CHAT_TEMPLATE"))
    return sorted({name for table in tables for name in table} - set(MODELS))


def _steered(name: str) -> "ModelManifest":
    """`steered_NAME`, also as `steered:NAME`, of one of lmms-eval's own: made when it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    models = sys.modules["lmms_eval.models"]
    simple = name in getattr(models, "AVAILABLE_SIMPLE_MODELS", {})
    chat = name in getattr(models, "AVAILABLE_CHAT_TEMPLATE_MODELS", {})
    path = f"lmms_steer.harness.wrapped.steered_{name}"
    return ModelManifest(
        f"steered_{name}",
        simple_class_path=f"{path}_simple" if simple else None,
        chat_class_path=path if chat else None,
        aliases=(f"steered:{name}",),
    )
