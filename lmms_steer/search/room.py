"""How many cells are replayed at once: what a device is given, and less once so much did not fit."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from lmms_steer.models.batches import halving

R = TypeVar("R")
AT_ONCE = {"cpu": 512}
"""Tokens in a replayed batch: a processor's caches are small; on accelerators more keeps them busy."""


class Room:
    """
    Attributes:
        tokens: in a replayed batch, at most.
    """

    def __init__(self, device: torch.device) -> None:
        self.tokens = AT_ONCE.get(device.type, 65536)

    def stacked(self, cells: list[int], tokens_each: int, run: Callable[[list[int]], list[R]]) -> list[R]:
        """What `run` gives for each cell, in stacks of no more tokens than there is room for.

        Raises:
            torch.OutOfMemoryError: where one cell alone does not fit.
        """
        made: list[R] = []
        while len(made) < len(cells):
            at_once = max(1, self.tokens // tokens_each)
            made += halving(cells[len(made) :][:at_once], run, "cells", partial(self._fit, tokens_each))
        return made

    def _fit(self, tokens_each: int, cells: int) -> None:
        self.tokens = tokens_each * cells
