"""A device with too little memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook


@contextmanager
def limited_to(rows: int) -> Iterator[None]:
    """Decoder layers run out of memory with more rows than this."""

    def entering(module: Any, args: tuple[Any, ...]) -> None:
        if type(module).__name__ == "Gemma2DecoderLayer" and args[0].shape[0] > rows:
            raise torch.OutOfMemoryError(f"CUDA out of memory: {args[0].shape[0]} rows\nand more lines")

    handle = register_module_forward_pre_hook(entering)
    try:
        yield
    finally:
        handle.remove()
