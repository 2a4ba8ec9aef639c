"""The device that a user names, tried before anything is loaded onto it."""

from typing import TYPE_CHECKING

from lmms_steer.errors import UserError, one_line

if TYPE_CHECKING:
    import torch


def usable_device(name: str) -> "torch.device":
    """
    Args:
        name: cpu, cuda, cuda:1, mps, …

    Raises:
        UserError: for what is no device, or none that this machine has.
    """
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device={name} cannot be used here: {one_line(error)}") from error
    return device
