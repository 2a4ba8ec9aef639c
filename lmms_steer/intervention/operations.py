"""What is done to a hidden state at the steered positions. One function an operation, each defined by its formula."""

from collections.abc import Callable

import torch
from torch import Tensor

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]


def add(hidden: Tensor, delta: Tensor, mask: Tensor) -> Tensor:
    """`h' = h + alpha * v` where the mask is true, `h` elsewhere, to the bit.

    Args:
        hidden: [batch, positions, width]; not changed in place, as others may hold it.
        delta: [width] = alpha * v, already in the dtype of `hidden`.
        mask: bool [batch, positions].
    """
    return torch.where(mask.unsqueeze(-1), hidden + delta, hidden)


OPERATIONS: dict[str, Operation] = {"add": add}
