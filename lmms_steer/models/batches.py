"""Batches that fit: questions of one shape together, and half of them at a time where the memory runs out."""

import sys
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch

Q = TypeVar("Q")
R = TypeVar("R")


def in_batches(asked: Sequence[Q], shape: Callable[[Q], Hashable], run: Callable[[list[Q]], list[R]]) -> list[R]:
    """`run` over questions of equal shape, results in the questions' order.

    A batch that runs out of memory is halved, and a line says so; a single question that does is raised.
    """
    groups: dict[Hashable, list[int]] = {}
    for number, question in enumerate(asked):
        groups.setdefault(shape(question), []).append(number)
    results: dict[int, R] = {}
    for numbers in groups.values():
        for number, result in zip(numbers, _halving([asked[n] for n in numbers], run), strict=True):
            results[number] = result
    return [results[number] for number in range(len(asked))]


def _halving(batch: list[Q], run: Callable[[list[Q]], list[R]]) -> list[R]:
    try:
        return run(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    # outside the handler, whose traceback would hold on to the tensors that did not fit
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = (len(batch) + 1) // 2
    print(f"lmms-steer: out of memory with {len(batch)} questions at once, going on with {half}", file=sys.stderr)  # noqa: T201
    return _halving(batch[:half], run) + _halving(batch[half:], run)
