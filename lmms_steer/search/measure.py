"""Measure many cells on one batch of questions: by replay where the model allows it, with hooks otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmms_steer._util.io import write_atomically
from lmms_steer.models.batches import StackRunner
from lmms_steer.replay.changes import Change, Delta, Deltas
from lmms_steer.replay.engine import Replay, try_replay
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.replay.setup import ReplayOptions
from lmms_steer.search.generation_scorer import GenerationScorer
from lmms_steer.search.plan import Cell
from lmms_steer.search.questions import OtherTask, PreparedBatch, Question
from lmms_steer.search.scorers import LetterScorer
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.resolved import ResolvedSpec
from lmms_steer.steering.scaled_vectors import active_layers, check_in_dtype
from lmms_steer.steering.sites import DEFAULT_SITE
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.steering_vectors import SteeringVectors

CHECKED_CELLS = 3
"""Cells of a checked batch that are run again with hooks."""
REFUTED_FILE = "hooked.txt"
"""The file of a study that says why its replays are not to be trusted."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """The scores of one batch.

    Attributes:
        scores: the score of each cell on each question, float [cells, questions].
        base: the unsteered model's scores, float [questions].
        unparsed: 1 where no answer could be read in the generated text, NaN where that is unknown, float [cells,
            questions].
        base_unparsed: the same for the unsteered model, float [questions].
        kl: KL(unsteered || steered) in nats at the token that decides, float [cells, questions].
        answer_logits: the unsteered logits of each question's answers; empty where they have no fixed set.
        why_not_replayed: why the batch was measured with hooks; empty where it was replayed.
    """

    scores: Tensor
    base: Tensor
    unparsed: Tensor
    base_unparsed: Tensor
    kl: Tensor
    answer_logits: list[list[float]]
    why_not_replayed: str


class Measurer:
    """Measures batches with one model.

    Args:
        lm: the unsteered model.
        task: the task; for one of lmms-eval used only if `generates`.
        vectors: the vectors by the names that cells use.
        generates: whether the model generates text that the task scores; otherwise the next token decides.
        targets: the token targets of all cells.
        budget: bytes of a base pass to hold in memory; None holds all.
        folder: where to store the rest.
        refuted_file: written when a replay is found wrong, and read by the study's other and later processes.
        metric: the score of generated text that counts; None for the first in the task's list.
        changes: what the vectors do, by the same names; empty where they are added at their layer's output.
        site: the site of the decoder that is steered.
        why_hooks: why nothing is replayed; empty where the model decides.

    Attributes:
        why_not_replayed: why batches are not replayed any more; empty while they are.
    """

    def __init__(
        self, lm: Any, task: Any, vectors: Mapping[str, SteeringVectors], generates: bool, targets: Sequence[str],
        budget: int | None = None, folder: Path | None = None, refuted_file: Path = Path(REFUTED_FILE),
        metric: str | None = None, changes: Mapping[str, Change] | None = None, site: str = DEFAULT_SITE,
        why_hooks: str = "",
    ) -> None:  # fmt: skip
        self.lm, self.task, self.vectors = lm, task, vectors
        special = getattr(lm.tokenizer, "all_special_ids", None)
        runner = StackRunner(lm.model.device)
        self.options = ReplayOptions(tuple(targets), special, budget, folder, generates, runner, site)
        self.why_not_replayed, self.refuted_file, self.metric = why_hooks, refuted_file, metric
        self.changes = changes or {}
        self._possible: set[Cell] = set()

    def __call__(self, batch: Sequence[Question], cells: Sequence[Cell], check: bool = False) -> Measurement:
        """Measure all cells on all questions.

        Args:
            batch: the questions.
            cells: the cells.
            check: run some cells again with hooks; if they differ, this batch and all later ones use hooks.

        Raises:
            UserError: for an alpha at which a vector overflows or is zero in the model's dtype, as in evaluations.
        """
        if self.refuted_file.is_file():
            # empty where the disk was full, or the file was cut
            self.why_not_replayed = self.refuted_file.read_text(encoding="utf-8") or "a replay was found wrong before"
        self._check_strengths(cells)
        prepared = self._prepare(batch)
        inputs, scorer = prepared.inputs, prepared.scorer
        hooked = HookedBatch(self.lm.model, inputs, self.options.special_ids, prepared.scored, self.options.generates)
        source = self._replay(prepared) or hooked
        scores, unparsed, kl = torch.zeros(3, len(cells), len(batch))
        for layer in sorted({cell.layer for cell in cells}):
            rows = [i for i, cell in enumerate(cells) if cell.layer == layer]
            deltas = self._deltas([cells[i] for i in rows])
            targets = [cells[i].tokens for i in rows]
            scores[rows], unparsed[rows], kl[rows] = scorer.scores(source, layer, deltas, targets)
        if check and isinstance(source, Replay):
            for cell in self._sample(cells, batch):
                if not scorer.agrees(source, hooked, cell.layer, self._delta(cell), cell.tokens):
                    self.why_not_replayed = f"{cell} replayed is not what the model with hooks gives"
                    write_atomically(self.refuted_file, self.why_not_replayed.encode())
                    return self(batch, cells)
        why_not_replayed = "" if isinstance(source, Replay) else self.why_not_replayed
        base, base_unparsed, _ = scorer.base(source)
        return Measurement(scores, base, unparsed, base_unparsed, kl, scorer.answer_logits(source), why_not_replayed)

    def _deltas(self, cells: Sequence[Cell]) -> Deltas:
        """What cells of one layer do to it."""
        if self.changes:
            return [self._change(cell) for cell in cells]
        return torch.stack([self._added(cell) for cell in cells])

    def _delta(self, cell: Cell) -> Delta:
        return self._change(cell) if self.changes else self._added(cell)

    def _change(self, cell: Cell) -> Change:
        return replace(self.changes[cell.vector], alpha=cell.alpha)

    def _added(self, cell: Cell) -> Tensor:
        return torch.from_numpy(self.vectors[cell.vector][cell.layer].copy()) * cell.alpha

    def _check_strengths(self, cells: Sequence[Cell]) -> None:
        dtype = getattr(self.lm.model, "dtype", torch.float32)
        for cell in (cell for cell in cells if cell not in self._possible):
            named = Intervention(cell.vector, cell.layer, cell.alpha, cell.tokens)
            plain = ResolvedSpec(SteeringSpec((named,)), (self.vectors[cell.vector],))
            spec = self._change(cell).at(cell.layer, cell.tokens) if self.changes else plain
            for active in active_layers(spec):
                for intervention, vector in active.parts:
                    check_in_dtype(intervention, vector, spec.operation_of(intervention), dtype)
            self._possible.add(cell)

    def _prepare(self, batch: Sequence[Question]) -> PreparedBatch:
        if isinstance(self.task, OtherTask):
            return self.task.prepare(self.lm, batch)
        inputs = self.lm.model_inputs([q.text for q in batch], [q.visuals for q in batch])
        if self.options.generates:
            return PreparedBatch(inputs, GenerationScorer(self.lm, self.task, batch, inputs, self.metric))
        return PreparedBatch(inputs, LetterScorer(self.lm, batch))

    def _replay(self, prepared: PreparedBatch) -> Replay | None:
        if self.why_not_replayed:
            return None
        if isinstance(prepared.scorer, GenerationScorer) and prepared.scorer.why_hooks:
            self.why_not_replayed = prepared.scorer.why_hooks
            return None
        options = replace(self.options, scored=prepared.scored)
        replay, self.why_not_replayed = try_replay(self.lm.model, prepared.inputs, options)
        return replay

    @staticmethod
    def _sample(cells: Sequence[Cell], batch: Sequence[Question]) -> list[Cell]:
        generator = np.random.default_rng(batch[0].doc_id)
        return [cells[i] for i in generator.choice(len(cells), min(CHECKED_CELLS, len(cells)), replace=False)]
