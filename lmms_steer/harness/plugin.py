"""The entry point that lmms-eval loads: our models and our tasks.

lmms-eval calls `manifests` at every `import lmms_eval.models`. Therefore this module imports nothing heavy, and
`manifests` never raises: an exception would cost every other plugin its models.
"""

import logging
import sys
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from lmms_steer._util.logging import print_notes
from lmms_steer.errors import first_line
from lmms_steer.harness.names import MODELS, steered_names_on_disk

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifests() -> "list[ModelManifest]":
    """Our models, for lmms-eval's registry. Adds our tasks to its index as well."""
    from lmms_eval.models.registry_v2 import ModelManifest

    try:
        # `lmms-eval models` needs no tasks, and the import below takes ten seconds
        if "lmms_eval.cli.models_cmd" not in sys.modules:
            from lmms_steer.harness.patches import index_our_tasks

            index_our_tasks()
        # `lmms-eval models` lists this table, not the registry
        listed = getattr(sys.modules.get("lmms_eval.models"), "AVAILABLE_SIMPLE_MODELS", {})
        # a read-only table is a view of the registry
        if isinstance(listed, MutableMapping):
            for name, path in MODELS.items():
                listed.setdefault(name, path)
    except Exception as error:  # noqa: BLE001  an error here would cost every other plugin its models
        if "lmms_eval.__main__" in sys.modules:
            print_notes()
        logging.getLogger(__name__).warning(
            "lmms-steer's tasks could not be added (%s): use --include_path", first_line(error)
        )
    ours = [ModelManifest(name, simple_class_path=path) for name, path in MODELS.items()]
    return ours + [
        manifest for name in _lmms_eval_names() if (manifest := _steered_manifest(name)).model_id not in MODELS
    ]


def _lmms_eval_names() -> list[str]:
    """The names of lmms-eval's own wrappers."""
    models = sys.modules.get("lmms_eval.models")
    tables = (getattr(models, f"AVAILABLE_{kind}_MODELS", {}) for kind in ("SIMPLE", "CHAT_TEMPLATE"))
    # in a view of the registry our own models are listed as well
    theirs = {name for table in tables for name in table if not name.startswith("steered_")}
    return sorted(theirs or (name.removeprefix("steered_") for name in steered_names_on_disk()))


def _steered_manifest(name: str) -> "ModelManifest":
    """The manifest of `steered_NAME`, also called `steered:NAME`. The class is made when it is first used."""
    from lmms_eval.models.registry_v2 import ModelManifest

    models = sys.modules["lmms_eval.models"]
    simple, chat = (
        name in table if table else f"steered_{name}" in steered_names_on_disk(kind)
        for kind, table in (
            ("simple", getattr(models, "AVAILABLE_SIMPLE_MODELS", {})),
            ("chat", getattr(models, "AVAILABLE_CHAT_TEMPLATE_MODELS", {})),
        )
    )
    path = f"lmms_steer.harness.wrapped.steered_{name}"
    return ModelManifest(
        f"steered_{name}",
        simple_class_path=f"{path}_simple" if simple else None,
        chat_class_path=path if chat else None,
        aliases=(f"steered:{name}",),
    )
