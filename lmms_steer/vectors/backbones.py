"""The table of multimodal models, their text backbones and SAEs (`backbones.yaml`), and names of checkpoints."""

import os
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml

from lmms_steer.errors import UserError, unknown_name
from lmms_steer.smol.checkpoints import SMOL_MODELS, made_checkpoint, planned_checkpoint
from lmms_steer.tiny_world.checkpoints import SHIPPED_MODELS, TINY_SAE, weights_dir


@cache
def _tables() -> dict[str, dict[str, str]]:
    """`mllms` and `saes` of `backbones.yaml`."""
    text = files("lmms_steer.vectors").joinpath("backbones.yaml").read_text(encoding="utf-8")
    data: dict[str, dict[str, str]] = yaml.safe_load(text)
    return data


def table() -> dict[str, str]:
    """Multimodal model (with `*` for any text) ▸ text backbone, both by their full names."""
    return _tables()["mllms"]


def short_name(model: str) -> str:
    """A model's name in stores and choices: the last part of its id or path (`gemma-2-2b`)."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def model_name(model: object) -> str:
    """What Python code gave as a model's name: a text, or a path.

    Raises:
        UserError: for something else, such as a loaded model.
    """
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    loaded = ": save it with save_pretrained and give the folder" if hasattr(model, "save_pretrained") else ""
    raise UserError(f"expected a model's Hub id or folder, got a {type(model).__name__}{loaded}")


def backbone_of(model: str) -> str | None:
    """The short name of a multimodal model's text backbone, or of a backbone itself; None for an unknown model."""
    for mllm, backbone in table().items():
        if fnmatchcase(model, mllm) or fnmatchcase(short_name(model), short_name(mllm)):
            return short_name(backbone)
    backbones = {short_name(name) for name in table().values()}
    return short_name(model) if short_name(model) in backbones else None


def checkpoint(model: str, make: bool = True) -> str:
    """What transformers should load for a name: the folder of a model that ships or is made here, else the name itself.

    Args:
        model: the name, or a folder.
        make: make a model that is made here where it is not there. Without it, the folder need not exist.

    Raises:
        UserError: for a misspelt name of such a model; for a model that cannot be made here.
    """
    if model in SHIPPED_MODELS:
        return str(weights_dir(model))
    if model in SMOL_MODELS:
        return str(made_checkpoint(model) if make else planned_checkpoint(model))
    own_names = (*SHIPPED_MODELS, *SMOL_MODELS)
    begun = any(name.startswith(model) for name in own_names)
    if not Path(model).exists() and (begun or get_close_matches(model, own_names, cutoff=0.85)):
        raise unknown_name("checkpoint", model, own_names)
    return model


def backbone_checkpoint(backbone: str, make: bool = True) -> str:
    """As `checkpoint`, also for the short name of a backbone in the table (`gemma-2-2b`)."""
    full_names = {short_name(name): name for name in table().values()}
    return checkpoint(full_names.get(backbone, backbone), make)


def sae_of(backbone: str) -> str | None:
    """The SAEs for a backbone, `RELEASE:ID` of sae-lens or a folder; None if the table has none."""
    saes = {short_name(name): sae for name, sae in _tables()["saes"].items()}
    sae = saes.get(short_name(backbone))
    return str(weights_dir(TINY_SAE)) if sae == TINY_SAE else sae
