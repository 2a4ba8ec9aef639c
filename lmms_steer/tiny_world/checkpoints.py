"""Names and folders of the trained checkpoints that ship with the package. Imports no torch."""

from importlib.resources import files
from pathlib import Path

TINY_MODELS = ("tiny-gemma2", "tiny-paligemma2")
TINY_SAE = "tiny-gemma2-sae"


def weights_dir(name: str) -> Path:
    """The folder of a shipped checkpoint.

    Args:
        name: one of `TINY_MODELS`, or `TINY_SAE`.

    Raises:
        ValueError: for another name.
    """
    if name not in (*TINY_MODELS, TINY_SAE):
        raise ValueError(f"no checkpoint {name!r} ships: expected one of {(*TINY_MODELS, TINY_SAE)}")
    return Path(str(files("lmms_steer.tiny_world"))) / "weights" / name
