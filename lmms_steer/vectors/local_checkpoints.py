"""Find a checkpoint on this disk, read how many layers it has, and write its size for people."""

import json
from pathlib import Path

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


def number_of_layers(pretrained: str) -> int | None:
    """Number of decoder layers in the configuration of a checkpoint on this disk; None where it is unknown."""
    folder = local_checkpoint(pretrained)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else {}
        number = config.get("text_config", config).get("num_hidden_layers")
    except (OSError, ValueError, AttributeError):
        return None
    return number if isinstance(number, int) else None


def format_bytes(count: int) -> str:
    """`3.1 GB`, or `12.5 MB` below a tenth of a GB."""
    return f"{count / 1e9:.1f} GB" if count >= 10**8 else f"{count / 1e6:.1f} MB"
