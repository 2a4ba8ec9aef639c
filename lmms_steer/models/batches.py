"""Batches that fit: questions of one shape together, and half of them at a time where the memory runs out.

How many cells are replayed at once: what a device is given, and less once so much did not fit.
"""

import logging
import sys
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeVar

import torch

Q = TypeVar("Q")
R = TypeVar("R")


def run_grouped(asked: Sequence[Q], shape: Callable[[Q], Hashable], run: Callable[[list[Q]], list[R]]) -> list[R]:
    """`run` over questions of equal shape, results in the questions' order.

    A batch that runs out of memory is halved (`halving`).
    """
    groups: dict[Hashable, list[int]] = {}
    for number, question in enumerate(asked):
        groups.setdefault(shape(question), []).append(number)
    results: dict[int, R] = {}
    for numbers in groups.values():
        for number, result in zip(numbers, run_with_halving([asked[n] for n in numbers], run), strict=True):
            results[number] = result
    return [results[number] for number in range(len(asked))]


class ShrinkingRunner:
    """Batches that are no larger than what fitted, once one has run out of memory.

    Args:
        what: they are of, for the line that says so.
    """

    def __init__(self, what: str = "questions") -> None:
        self.what, self.at_once = what, sys.maxsize

    def run(self, batch: Sequence[Q], run: Callable[[list[Q]], list[R]]) -> list[R]:
        """`run` over a batch, results in its order.

        Raises:
            torch.OutOfMemoryError: where one alone does not fit.
        """
        results: list[R] = []
        while len(results) < len(batch):
            results += run_with_halving(batch[len(results) :][: self.at_once], run, self.what, self._keep)
        return results

    def _keep(self, fitted: int) -> None:
        self.at_once = fitted


def run_with_halving(
    batch: Sequence[Q],
    run: Callable[[list[Q]], list[R]],
    what: str = "questions",
    fits: Callable[[int], None] | None = None,
) -> list[R]:
    """`run` over a batch, results in its order; in halves where it runs out of memory, and a line says so.

    Args:
        batch: what is run at once.
        run: gives one result for each.
        what: they are, for the line.
        fits: is told how many are tried next, for a caller who makes later batches no larger.

    Raises:
        torch.OutOfMemoryError: where one alone does not fit.
    """
    try:
        return run(list(batch))
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # outside the handler, whose traceback would hold on to the tensors that did not fit
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = (len(batch) + 1) // 2
    if fits is not None:
        fits(half)
    logging.getLogger(__name__).info("out of memory with %d %s at once, going on with %d", len(batch), what, half)
    return [result for part in (batch[:half], batch[half:]) for result in run_with_halving(part, run, what, fits)]


StackResult = TypeVar("StackResult")
TOKENS_AT_ONCE = {"cpu": 512}
"""Tokens in a replayed batch: a processor's caches are small; on accelerators more keeps them busy."""


class StackRunner:
    """
    Attributes:
        tokens: in a replayed batch, at most.
    """

    def __init__(self, device: torch.device) -> None:
        self.tokens = TOKENS_AT_ONCE.get(device.type, 65536)

    def stacked(
        self, cells: list[int], tokens_each: int, run: Callable[[list[int]], list[StackResult]]
    ) -> list[StackResult]:
        """What `run` gives for each cell, in stacks of no more tokens than there is room for.

        Raises:
            torch.OutOfMemoryError: where one cell alone does not fit.
        """
        made: list[StackResult] = []
        while len(made) < len(cells):
            at_once = max(1, self.tokens // tokens_each)
            made += run_with_halving(cells[len(made) :][:at_once], run, "cells", partial(self._fit, tokens_each))
        return made

    def _fit(self, tokens_each: int, cells: int) -> None:
        self.tokens = tokens_each * cells
