"""What the harnesses load by entry point, at every `import lmms_eval.models`: it stays light and never raises."""

import sys
import warnings
from typing import TYPE_CHECKING

from lmms_steer.errors import one_line
from lmms_steer.models.names import MODELS

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifests() -> "list[ModelManifest]":
    """Our models, for lmms-eval's registry; and our tasks, for its index."""
    from lmms_eval.models.registry_v2 import ModelManifest

    try:
        # the list commands (`lmms-eval models`) need no task, and the import behind this line takes ten seconds
        if "lmms_eval.cli.models_cmd" not in sys.modules:
            from lmms_steer.lmms_eval_seams import index_our_tasks

            index_our_tasks()
        # `lmms-eval models` lists these tables, not the registry
        listed = getattr(sys.modules.get("lmms_eval.models"), "AVAILABLE_SIMPLE_MODELS", {})
        for name, path in MODELS.items():
            listed.setdefault(name, path)
    except Exception as error:  # noqa: BLE001  an error here would cost every other plugin its models
        warnings.warn(f"lmms-steer: use --include_path, our tasks could not be added: {one_line(error)}", stacklevel=2)
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
    path = f"lmms_steer.models.wrapped.steered_{name}"
    return ModelManifest(
        f"steered_{name}",
        simple_class_path=f"{path}_simple" if simple else None,
        chat_class_path=path if chat else None,
        aliases=(f"steered:{name}",),
    )
