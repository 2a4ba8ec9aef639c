"""The split of the paper's released code for benchmarks that have no split for choosing settings."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from lmms_steer.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

HELD_OUT = 150
"""Questions that the released code's command line holds out by default; it tests on the rest."""
SPLIT_SEED = 42
PARTS = ("select", "test")


def paper_part(task: str, part: str) -> "Callable[[Dataset], Dataset]":
    """A `process_docs` that selects a part of a benchmark's questions.

    The questions are split by scikit-learn's `train_test_split` with seed 42: 150 are held out (`select`), and the test
    questions are all others.

    Args:
        task: the benchmark, for messages.
        part: `select`, `test`, or empty for all questions in file order.
    """

    def process_docs(dataset: "Dataset") -> "Dataset":
        return dataset.select(split_places(len(dataset), part, task)) if part else dataset

    return process_docs


def split_places(count: int, part: str, task: str) -> list[int]:
    """The places of a part's questions among all of them.

    Args:
        count: the number of questions.
        part: `select` or `test`.
        task: the benchmark, for messages.

    Raises:
        UserError: where nothing is left to test on.
    """
    if count <= HELD_OUT:
        raise UserError(
            f"{task} has {count} questions, and the paper's split holds out {HELD_OUT}: it needs more than that"
        )
    # sklearn takes a second to import
    from sklearn.model_selection import train_test_split

    rest, held_out = train_test_split(range(count), test_size=HELD_OUT, random_state=SPLIT_SEED)
    return list(held_out if part == "select" else rest)
