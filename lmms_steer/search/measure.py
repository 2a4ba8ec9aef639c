"""One batch of questions under many cells: replayed where the model can be, with hooks where it cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmms_steer._util.io import write_atomically
from lmms_steer.errors import first_line
from lmms_steer.models.batches import StackRunner
from lmms_steer.search.hooked import HookedBatch
from lmms_steer.search.plan import Cell
from lmms_steer.search.questions import Question
from lmms_steer.search.replay import Replay, ReplayOptions
from lmms_steer.search.scorers import GenerationScorer, LetterScorer
from lmms_steer.vectors.steering_vectors import SteeringVectors

CHECKED = 3
"""Cells of a checked batch that are run again through the hooks."""
REFUTED_FILE = "hooked.txt"


@dataclass(frozen=True, slots=True)
class Measurement:
    """
    Attributes:
        hits: the score of each cell on each question, float [cells, questions].
        base: of the unsteered model, float [questions].
        unparsed, base_unparsed: 1 where no answer could be read in what was written, shaped alike; nan where nothing
            says so.
        answers: the unsteered logits of each question's answers; empty where text is generated.
        hooked: why it was not replayed; empty where it was.
    """

    hits: Tensor
    base: Tensor
    unparsed: Tensor
    base_unparsed: Tensor
    answers: list[list[float]]
    hooked: str


class Measurer:
    """
    Args:
        lm: the unsteered model.
        task: of lmms-eval.
        vectors: by the names that cells use.
        generates: whether the model writes its answers, or the next token tells them.
        targets: the cells' token targets.
        budget: bytes of a base pass to hold in memory.
        folder: for what is beyond it.
        wrong: the file that says to the study's other processes, and to those that go on with it, that a replay was
            found wrong, and why.

    Attributes:
        why_hooks: why batches are not replayed any more; empty while they are.
    """

    def __init__(
        self, lm: Any, task: Any, vectors: Mapping[str, SteeringVectors], generates: bool, targets: Sequence[str],
        budget: int | None = None, folder: Path | None = None, wrong: Path = Path(REFUTED_FILE),
    ) -> None:  # fmt: skip
        self.lm, self.task, self.vectors = lm, task, vectors
        special = tuple(getattr(lm.tokenizer, "all_special_ids", ()))
        self.options = ReplayOptions(tuple(targets), special, budget, folder, generates, StackRunner(lm.model.device))
        self.why_hooks, self.wrong = "", wrong

    def __call__(self, batch: Sequence[Question], cells: Sequence[Cell], check: bool = False) -> Measurement:
        """All cells on all questions.

        Args:
            batch: the questions.
            cells: what is tried.
            check: run some cells again through the hooks; where they differ, this batch and all to come are hooked.
        """
        if self.wrong.is_file():
            self.why_hooks = self.wrong.read_text(encoding="utf-8")
        inputs = self.lm.model_inputs([q.text for q in batch], [q.visuals for q in batch])
        scorer = (
            GenerationScorer(self.lm, self.task, batch, inputs)
            if self.options.generates
            else LetterScorer(self.lm, batch)
        )
        hooked = HookedBatch(self.lm.model, inputs, self.options.special_ids)
        source = self._replay(inputs) or hooked
        told = torch.zeros(2, len(cells), len(batch))
        for layer in sorted({cell.layer for cell in cells}):
            rows = [i for i, cell in enumerate(cells) if cell.layer == layer]
            deltas = torch.stack([self._delta(cells[i]) for i in rows])
            told[:, rows] = scorer.hits(source, layer, deltas, [cells[i].tokens for i in rows])
        if check and isinstance(source, Replay):
            for cell in self._sample(cells, batch):
                if not scorer.same(source, hooked, cell.layer, self._delta(cell), cell.tokens):
                    self.why_hooks = f"{cell} replayed is not what the model with hooks gives"
                    write_atomically(self.wrong, self.why_hooks.encode())
                    return self(batch, cells)
        why = "" if isinstance(source, Replay) else self.why_hooks
        (hits, unparsed), (base, base_unparsed) = told, scorer.base(source)
        return Measurement(hits, base, unparsed, base_unparsed, scorer.answers(source), why)

    def _delta(self, cell: Cell) -> Tensor:
        return torch.from_numpy(self.vectors[cell.vector][cell.layer].copy()) * cell.alpha

    def _replay(self, inputs: dict[str, Any]) -> Replay | None:
        if not self.why_hooks:
            try:
                return Replay(self.lm.model, inputs, self.options)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, AttributeError, TypeError, LookupError) as error:
                # a model may ask its cache for more than a recorder has, or its layers for other arguments
                self.why_hooks = first_line(error)
        return None

    @staticmethod
    def _sample(cells: Sequence[Cell], batch: Sequence[Question]) -> list[Cell]:
        drawn = np.random.default_rng(batch[0].doc_id).choice(len(cells), min(CHECKED, len(cells)), replace=False)
        return [cells[i] for i in drawn]
