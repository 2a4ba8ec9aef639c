"""Where the checkpoints of a recipe come from: this disk, a package that makes them here, or the Hub."""

from lmms_steer.data.availability import absence_note
from lmms_steer.smol.checkpoints import SMOL_MODELS
from lmms_steer.smol.made_folder import checkpoint_folder
from lmms_steer.vectors.local_checkpoints import local_checkpoint


def where_from(name: str) -> str | None:
    """Where a checkpoint will come from, in words that follow its name; None for one that is on this disk."""
    if local_checkpoint(name) is not None:
        return None
    return "not made yet: that takes half a minute, once" if _is_made_here(name) else absence_note()


def is_on_hub(name: str) -> bool:
    """Whether a checkpoint must be fetched from the Hub."""
    return local_checkpoint(name) is None and not _is_made_here(name)


def _is_made_here(name: str) -> bool:
    return name in SMOL_MODELS or name in {str(checkpoint_folder(model)) for model in SMOL_MODELS}
