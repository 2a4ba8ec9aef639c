"""`smol-idefics3`: an Idefics3 on `smollm2-135m`, made once by merging the adapter that ships."""

import logging
from pathlib import Path

from lmms_steer._util.logging import quiet_in_logs
from lmms_steer.errors import UserError
from lmms_steer.smol import backbone
from lmms_steer.smol.adapter import WEIGHTS, check_adapter, tower_sha256
from lmms_steer.smol.made_folder import MANIFEST, checkpoint_folder, made_folder

MLLM = "smol-idefics3"
FORMAT = 1
"""Counts changes to what `_merge` writes."""
MEGABYTES = 300
log = logging.getLogger(__name__)


def shipped_adapter() -> Path:
    """The folder of the adapter that ships."""
    return Path(__file__).parent / "adapter"


def checkpoint() -> Path:
    """The folder of the checkpoint, which is made if it is not there.

    Raises:
        UserError: where it cannot be made: without an adapter or the backbone's package, or on a full disk.
    """
    adapter = shipped_adapter()
    if not (adapter / WEIGHTS).exists():
        raise UserError(f"the adapter of {MLLM} is missing: {str(adapter / WEIGHTS)!r}: install lmms-steer again")
    return _merged(adapter, checkpoint_folder(MLLM))


def checkpoint_of(adapter: Path, folder: Path) -> Path:
    """Make a checkpoint of an adapter that `training.smol` wrote, for `pretrained=FOLDER`.

    Args:
        adapter: the folder of the adapter.
        folder: of the checkpoint. One that this function made from another adapter is replaced.

    Returns:
        `folder`.

    Raises:
        UserError: as `checkpoint`, or if the folder has other files.
    """
    if folder.exists() and not (folder / MANIFEST).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{str(folder)!r} exists and was not made by this command: name another folder")
    return _merged(adapter, folder)


def _merged(adapter: Path, folder: Path) -> Path:
    sources = {
        "adapter": check_adapter(adapter),
        "vision_tower": tower_sha256(),
        "format": FORMAT,
        **{f"backbone_{name}": value for name, value in backbone.SOURCES.items()},
    }

    def make(empty: Path) -> None:
        source = backbone.checkpoint()
        log.info("making %s from %s and its adapter, once", folder.name, source.name)
        _merge(source, adapter, empty)

    return made_folder(folder, sources, make, MEGABYTES)


def _merge(source: Path, adapter: Path, folder: Path) -> None:
    from lmms_steer.smol.adapter import merge_adapter
    from lmms_steer.smol.architecture import assemble, build_processor

    with quiet_in_logs():
        # each layer is merged in float32 and then rounded, so a model in bfloat16 loses nothing and halves the memory
        merge_adapter(assemble(source, "bfloat16"), adapter).save_pretrained(folder)
        build_processor(source).save_pretrained(folder)
