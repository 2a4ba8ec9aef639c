"""Run compiled models uncompiled while they are steered.

`torch.compile` does not notice hooks that are added after a module was compiled, and keeps those that are removed
(pytorch issue 117758). So while a model is steered, all compiled code of the process runs as the Python that it came
from.
"""

import logging
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from threading import Lock

import torch
from torch import nn

logger = logging.getLogger(__name__)

_lock = Lock()
_attachments = 0
_stance = ExitStack()
"""Holds the compiler's stance while there are attachments, and restores the one before."""


def run_eagerly(model: nn.Module) -> Callable[[], None]:
    """Run compiled code eagerly until the returned function is called, or the model is deleted.

    Args:
        model: the steered model.
    """
    global _attachments  # noqa: PLW0603
    if any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None for m in model.modules()):
        logger.info("%s is compiled: it runs uncompiled while it is steered", type(model).__name__)
    with _lock:
        if not _attachments:
            _stance.enter_context(torch.compiler.set_stance("force_eager"))
        _attachments += 1
    return weakref.finalize(model, _end)


def _end() -> None:
    global _attachments  # noqa: PLW0603
    with _lock:
        _attachments -= 1
        if not _attachments:
            _stance.close()
