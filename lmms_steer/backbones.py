"""Which text backbone an MLLM is built on, and where a checkpoint that a user names is to be loaded from."""

from functools import cache
from importlib.resources import files

import yaml

from lmms_steer.tiny_world.paths import TINY_MODELS, weights_dir


@cache
def table() -> dict[str, str]:
    """MLLM ▸ backbone, both as a user names them (`backbones.yaml`)."""
    text = files("lmms_steer").joinpath("backbones.yaml").read_text(encoding="utf-8")
    data: dict[str, str] = yaml.safe_load(text)
    return data


def short_name(model: str) -> str:
    """A model's name in store paths and choices: the last part of its id or path (`gemma-2-2b`)."""
    return model.rstrip("/").rsplit("/", 1)[-1]


def backbone_of(model: str) -> str | None:
    """The short name of an MLLM's text backbone, or None where the table has none."""
    for mllm, backbone in table().items():
        if model == mllm or short_name(model) == short_name(mllm):
            return short_name(backbone)
    return None


def checkpoint(model: str) -> str:
    """What transformers should load for a name: the folder that ships for the tiny models, else the name itself."""
    return str(weights_dir(model)) if model in TINY_MODELS else model


def backbone_checkpoint(backbone: str) -> str:
    """As `checkpoint`, for a backbone that may be named by its short name (`gemma-2-2b`)."""
    full = {short_name(name): name for name in table().values()}
    return checkpoint(full.get(backbone, backbone))
