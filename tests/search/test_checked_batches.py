"""Which batches of a search are measured again with hooks."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tqdm import tqdm

from lmms_steer.search.batch_store import BatchStore
from lmms_steer.search.measure import Measurement
from lmms_steer.search.plan import Cell
from lmms_steer.search.strategies import Rung

CELLS = tuple(Cell("v", layer, 1.0, "image") for layer in range(4))


class Measurer:
    """Measures nothing, and notes the first question of each batch that is checked."""

    def __init__(self, refuted_file: Path) -> None:
        self.refuted_file, self.checked = refuted_file, list[int]()

    def __call__(self, batch: Sequence[Any], cells: Sequence[Cell], check: bool) -> Measurement:
        if check:
            self.checked.append(batch[0].doc_id)
        cell_scores, scores = torch.zeros(len(cells), len(batch)), torch.zeros(len(batch))
        return Measurement(cell_scores, scores, cell_scores, scores, cell_scores, [[] for _ in batch], "")


@pytest.mark.parametrize(
    ("ends", "checked"),
    [
        # a grid: one batch of 50 in eight
        ([1000], [0, 400, 800]),
        # a race: its rungs share the eight, and the finalists begin with one of their own
        ([100, 200, 600], [0, 200]),
        ([400, 500, 1000], [0, 400, 500, 900]),
        # batches that are larger than a rung
        ([30, 60], [0, 30]),
    ],
)
def test_one_batch_in_eight_and_the_first_of_the_finalists_are_checked(
    tmp_path: Path, ends: list[int], checked: list[int]
) -> None:
    measurer = Measurer(tmp_path / "hooked.txt")
    questions: Any = [SimpleNamespace(doc_id=number, right=0, visuals=(), text="") for number in range(ends[-1])]
    store = BatchStore(tmp_path, measurer, questions, 50, tqdm(disable=True), "plan")  # type: ignore[arg-type]
    for number, (first, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        store(number, Rung(CELLS, range(first, end)))
    assert measurer.checked == checked
