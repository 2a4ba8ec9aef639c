"""Make `generate` write given ids, so that two ways to run a model can be compared token by token."""

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList


class _Write:
    """Makes `generate` write given ids.

    Args:
        ids: [rows, new tokens].
        start: length of the prompt.
    """

    def __init__(self, ids: Tensor, start: int) -> None:
        self.ids, self.start = ids, start

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Leave only the given token possible."""
        token = self.ids[:, input_ids.shape[1] - self.start, None]
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)


def forced_ids(ids: Tensor | None, start: int) -> dict[str, Any]:
    """Options that make `generate` write given ids.

    Args:
        ids: [rows, new tokens]; None lets the model choose, with no options.
        start: length of the prompt.
    """
    if ids is None:
        return {}
    return {"logits_processor": LogitsProcessorList([_Write(ids, start)]), "max_new_tokens": ids.shape[1]}
