"""Damage of a cell: how far steering moves the model's next-token distribution, right answers or not.

KL(unsteered || steered) is the expected log-likelihood ratio, in nats, of a token that the unsteered model would have
written (Kullback and Leibler 1951). To second order in alpha it grows as alpha² times a Fisher information.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmms_steer.steering.anatomy import generating_part


def divergence_from(base: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of steered logits that gives KL(unsteered || steered) in nats.

    Args:
        base: the unsteered logits, [..., vocabulary].

    Returns:
        logits [cells, ..., vocabulary] ▸ float32 [cells, ...], at least 0. Infinite where the steered logits are not
        finite, or rule out a token that the unsteered model may write.
    """
    log_p = F.log_softmax(base.float(), -1)
    p = log_p.exp()

    def divergence(logits: Tensor) -> Tensor:
        log_q = F.log_softmax(logits.float(), -1)
        # a token that the unsteered model never writes counts 0, however unlikely it becomes
        terms = torch.where(p > 0, p * (log_p - log_q), 0.0)
        return terms.sum(-1).nan_to_num(torch.inf, torch.inf).clamp_min(0.0)

    return divergence


@contextmanager
def first_call_logits(model: nn.Module) -> Iterator[list[Tensor]]:
    """Record the logits of the next token in the first forward call within the context, as one tensor in a list.

    `generate` could return them, but with those of every later token, which may not fit in memory.
    """
    found: list[Tensor] = []

    def record(_: nn.Module, __: Any, output: Any) -> None:
        if not found:
            found.append(output.logits[:, -1])

    # each forward call of the whole model calls this part
    handle = (generating_part(model) or model).register_forward_hook(record)
    try:
        yield found
    finally:
        handle.remove()
