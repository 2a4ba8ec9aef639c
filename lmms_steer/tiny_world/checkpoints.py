"""Where the trained checkpoints that ship with the package lie. Imports no torch."""

from importlib.resources import files
from pathlib import Path

TINY_MODELS = ("tiny-gemma2", "tiny-paligemma2")
TINY_SAE = "tiny-gemma2-sae"


def weights_dir(name: str) -> Path:
    """The folder of a shipped checkpoint, one of `TINY_MODELS` or `TINY_SAE`."""
    if name not in (*TINY_MODELS, TINY_SAE):
        raise ValueError(f"no shipped checkpoint {name!r}: {TINY_MODELS}")
    return Path(str(files("lmms_steer.tiny_world"))) / "weights" / name
