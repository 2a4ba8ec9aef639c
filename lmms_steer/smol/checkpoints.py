"""Names and folders of the checkpoints that are made on this machine. Imports no torch."""

from pathlib import Path

from lmms_steer._util.io import cache_dir

BACKBONE = "smollm2-135m"
MLLM = "smol-idefics3"
SMOL_MODELS = (BACKBONE, MLLM)


def checkpoint_folder(name: str) -> Path:
    """The folder of a checkpoint in the cache, which need not exist."""
    return cache_dir() / "models" / name
