"""The key-value cache among a module's arguments: `cache` from transformers 5.24 on, `past_key_values` before."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

CACHE_NAMES = ("cache", "past_key_values")
"""The names of the argument, the newer one first, which counts where both are given."""


def given_cache(arguments: Mapping[str, Any]) -> Any:
    """The cache among the keyword arguments of a call; None without one."""
    return next((arguments[name] for name in CACHE_NAMES if arguments.get(name) is not None), None)


def cache_name(module: nn.Module) -> str:
    """The name by which a model or a decoder layer takes its cache."""
    newer, older = CACHE_NAMES
    return newer if newer in inspect.signature(module.forward).parameters else older
