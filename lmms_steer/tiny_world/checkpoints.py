"""Names and folders of the trained checkpoints that ship with the package. Imports no torch."""

from importlib.resources import files
from pathlib import Path

TINY_MODELS = ("tiny-gemma2", "tiny-paligemma2")
MEDIA_MODELS = ("tiny-qwen2-vl", "tiny-qwen2-audio")
"""One language model that sees videos, and the same one that hears (`training.media`)."""
SHIPPED_MODELS = TINY_MODELS + MEDIA_MODELS
TINY_SAE = "tiny-gemma2-sae"


def weights_dir(name: str) -> Path:
    """The folder of a shipped checkpoint.

    Args:
        name: one of `SHIPPED_MODELS`, or `TINY_SAE`.

    Raises:
        ValueError: for another name.
    """
    if name not in (*SHIPPED_MODELS, TINY_SAE):
        raise ValueError(f"no checkpoint {name!r} ships: expected one of {(*SHIPPED_MODELS, TINY_SAE)}")
    return Path(str(files("lmms_steer.tiny_world"))) / "weights" / name
