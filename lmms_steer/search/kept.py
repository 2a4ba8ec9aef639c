"""Tensors of a base pass: in memory up to a bound, in files beyond it."""

import tempfile
from pathlib import Path
from typing import IO

import safetensors.torch
import torch
from torch import Tensor


class Kept:
    """A mapping of names to tensors, each written once.

    Args:
        budget: bytes to hold in memory; None holds all.
        folder: on whose disk the rest is kept, in files without a name that end with the process; None: the system's.
    """

    def __init__(self, budget: int | None = None, folder: Path | None = None) -> None:
        self.budget, self.folder = budget, folder
        self.held: dict[str, Tensor] = {}
        self.spilled: dict[str, tuple[IO[bytes], torch.device]] = {}
        self.bytes = 0

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        size = tensor.element_size() * tensor.nelement()
        if self.budget is None or self.bytes + size <= self.budget:
            self.held[name] = tensor
            self.bytes += size
            return
        file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  as long as this object
        file.write(safetensors.torch.save({"tensor": tensor.contiguous().cpu()}))
        file.flush()
        self.spilled[name] = file, tensor.device

    def __getitem__(self, name: str) -> Tensor:
        """
        Raises:
            KeyError: for a name that was not set.
        """
        if name not in self.spilled:
            return self.held[name]
        file, device = self.spilled[name]
        file.seek(0)
        return safetensors.torch.load(file.read())["tensor"].to(device)
