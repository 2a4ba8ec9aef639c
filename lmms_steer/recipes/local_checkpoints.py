"""Find a checkpoint on this disk, and write its size for people."""

from pathlib import Path

from lmms_steer.data.availability import absence_note
from lmms_steer.smol.checkpoints import SMOL_MODELS
from lmms_steer.smol.made_folder import checkpoint_folder
from lmms_steer.vectors.backbones import checkpoint


def local_checkpoint(name: str) -> Path | None:
    """The folder of a checkpoint's files on this disk; None for one that is not here. Nothing is made."""
    name = checkpoint(name, make=False)
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub.constants import HF_HUB_CACHE

    snapshots = Path(HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "snapshots")
    by_age = sorted(snapshots.glob("*"), key=lambda path: path.stat().st_mtime)
    return by_age[-1] if by_age else None


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


def format_bytes(count: int) -> str:
    """`3.1 GB`, or `12.5 MB` below a tenth of a GB."""
    return f"{count / 1e9:.1f} GB" if count >= 10**8 else f"{count / 1e6:.1f} MB"
