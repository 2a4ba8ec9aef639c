"""Run batches that fit into memory: a batch that runs out of memory is halved and tried again."""

import logging
import sys
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

TOKENS_AT_ONCE = {"cpu": 512}
"""Tokens in a stack of replayed cells, by type of device: a CPU's caches are small."""
TOKENS_AT_ONCE_ON_ACCELERATORS = 65536
"""As above, for every other type of device: larger stacks keep an accelerator busy."""


def run_grouped(
    items: Sequence[Item], group_of: Callable[[Item], Hashable], run: Callable[[list[Item]], list[Result]]
) -> list[Result]:
    """Run the items of each group as one batch, in halves if it runs out of memory.

    Args:
        items: what is run, such as questions.
        group_of: items with equal values may share a batch.
        run: gives one result for each item of a batch.

    Returns:
        the results, in the order of the items.
    """
    groups: dict[Hashable, list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault(group_of(item), []).append(number)
    results: dict[int, Result] = {}
    for numbers in groups.values():
        for number, result in zip(numbers, run_with_halving([items[n] for n in numbers], run), strict=True):
            results[number] = result
    return [results[number] for number in range(len(items))]


def run_with_halving(
    batch: Sequence[Item],
    run: Callable[[list[Item]], list[Result]],
    what: str = "questions",
    on_halved: Callable[[int], None] | None = None,
) -> list[Result]:
    """Run a batch, in halves if it runs out of memory; each halving is logged.

    Args:
        batch: what is run at once.
        run: gives one result for each item.
        what: the name of the items in the log, in the plural.
        on_halved: called with the size that is tried next, so that a caller can make later batches no larger.

    Returns:
        the results, in the order of the batch.

    Raises:
        torch.OutOfMemoryError: if a single item does not fit.
    """
    try:
        return run(list(batch))
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # outside the handler, because its traceback would keep the tensors that did not fit alive
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = (len(batch) + 1) // 2
    if on_halved is not None:
        on_halved(half)
    logger.info("out of memory with %d %s at once, going on with %d", len(batch), what, half)
    return [result for part in (batch[:half], batch[half:]) for result in run_with_halving(part, run, what, on_halved)]


class ShrinkingRunner:
    """Runs batches whose size is limited, after an out-of-memory error, to the size that fitted.

    Args:
        what: the name of the items in the log, in the plural.

    Attributes:
        at_once: the largest batch that is tried.
    """

    def __init__(self, what: str = "questions") -> None:
        self.what, self.at_once = what, sys.maxsize

    def run(self, batch: Sequence[Item], run: Callable[[list[Item]], list[Result]]) -> list[Result]:
        """Run a batch, in as many parts as needed.

        Returns:
            the results, in the order of the batch.

        Raises:
            torch.OutOfMemoryError: if a single item does not fit.
        """
        results: list[Result] = []
        while len(results) < len(batch):
            results += run_with_halving(batch[len(results) :][: self.at_once], run, self.what, self._limit)
        return results

    def _limit(self, size: int) -> None:
        self.at_once = size


class StackRunner:
    """Runs the cells of a search in stacks of a limited number of tokens, fewer after an out-of-memory error.

    Args:
        device: where the stacks run; its type decides the first limit.

    Attributes:
        tokens: the largest number of tokens in a stack. A single cell may exceed it.
    """

    def __init__(self, device: torch.device) -> None:
        self.tokens = TOKENS_AT_ONCE.get(device.type, TOKENS_AT_ONCE_ON_ACCELERATORS)

    def stacked(self, cells: list[int], tokens_each: int, run: Callable[[list[int]], list[Result]]) -> list[Result]:
        """Run cells in stacks.

        Args:
            cells: the numbers of the cells.
            tokens_each: the number of tokens of one cell.
            run: gives one result for each cell of a stack.

        Returns:
            the results, in the order of the cells.

        Raises:
            torch.OutOfMemoryError: if a single cell does not fit.
        """
        results: list[Result] = []
        while len(results) < len(cells):
            at_once = max(1, self.tokens // tokens_each)
            limit = partial(self._limit, tokens_each)
            results += run_with_halving(cells[len(results) :][:at_once], run, "cells", limit)
        return results

    def _limit(self, tokens_each: int, cells: int) -> None:
        self.tokens = tokens_each * cells
