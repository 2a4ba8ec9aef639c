"""A store of tensors that keeps what does not fit into a memory budget in temporary files."""

import tempfile
from pathlib import Path
from typing import IO

import safetensors.torch
import torch
from torch import Tensor


class TensorStore:
    """A mapping of names to tensors, each written once: in memory up to a bound, in files beyond it.

    Args:
        budget: bytes to hold in memory; None holds everything.
        folder: where the rest goes, in files without a name that vanish with the process; None for the system's
            temporary folder.
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
        file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  lives as long as this object
        file.write(safetensors.torch.save({"tensor": tensor.contiguous().cpu()}))
        file.flush()
        self.spilled[name] = file, tensor.device

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor, on the device that it was on.

        Raises:
            KeyError: for a name that was never set.
        """
        if name not in self.spilled:
            return self.held[name]
        file, device = self.spilled[name]
        file.seek(0)
        return safetensors.torch.load(file.read())["tensor"].to(device)
