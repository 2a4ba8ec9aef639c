"""Tensors of a base pass: in memory up to a bound, in files beyond it."""

import tempfile
from pathlib import Path

import safetensors.torch
from torch import Tensor

from lmms_steer.vectors import write_atomically


class Kept:
    """A mapping of names to tensors, each written once.

    Args:
        budget: bytes to hold in memory; None holds all.
        folder: where the rest goes, into a folder of its own that is removed with the object; None is the system's.
    """

    def __init__(self, budget: int | None = None, folder: Path | None = None) -> None:
        self.budget, self.folder = budget, folder
        self.held: dict[str, Tensor] = {}
        self.spilled: dict[str, Tensor] = {}
        self.bytes = 0
        self._disk: tempfile.TemporaryDirectory[str] | None = None

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        size = tensor.element_size() * tensor.nelement()
        if self.budget is None or self.bytes + size <= self.budget:
            self.held[name] = tensor
            self.bytes += size
            return
        if self._disk is None:
            self._disk = tempfile.TemporaryDirectory(prefix="spill-", dir=self.folder)
        data = safetensors.torch.save({"tensor": tensor.contiguous().cpu()})
        write_atomically(Path(self._disk.name) / name, data)
        # remembers dtype, shape and device, and holds no numbers
        self.spilled[name] = tensor.new_empty(0)

    def __getitem__(self, name: str) -> Tensor:
        """
        Raises:
            KeyError: for a name that was not set.
        """
        if name not in self.spilled:
            return self.held[name]
        assert self._disk is not None
        read = safetensors.torch.load((Path(self._disk.name) / name).read_bytes())["tensor"]
        return read.to(self.spilled[name].device)

    def __contains__(self, name: str) -> bool:
        return name in self.held or name in self.spilled
