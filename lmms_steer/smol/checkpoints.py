"""The checkpoints that are made on this machine, by name. Imports no torch unless something has to be made."""

from pathlib import Path

from lmms_steer.smol import backbone, mllm
from lmms_steer.smol.backbone import BACKBONE
from lmms_steer.smol.made_folder import checkpoint_folder
from lmms_steer.smol.mllm import MLLM

SMOL_MODELS = (BACKBONE, MLLM)


def made_checkpoint(name: str) -> Path:
    """The folder of a checkpoint, which is made first if it is not there.

    Args:
        name: one of `SMOL_MODELS`.

    Raises:
        UserError: if the checkpoint is not there and cannot be made.
    """
    return backbone.checkpoint() if name == BACKBONE else mllm.checkpoint()


def planned_checkpoint(name: str) -> Path:
    """The folder that `made_checkpoint` returns, which need not exist: nothing is made, and its content is not checked.

    Args:
        name: one of `SMOL_MODELS`.

    Raises:
        UserError: if neither it nor the backbone is there, and the package that both are made from is not installed.
    """
    folder = checkpoint_folder(name)
    if not folder.exists() and not checkpoint_folder(BACKBONE).exists():
        backbone.check_installed()
    return folder
