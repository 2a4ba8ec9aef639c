"""Resolve the KL budgets of a study, from batches that are stored and shared like its others."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmms_steer._util.io import write_atomically
from lmms_steer._util.progress import progress_bar
from lmms_steer.errors import UserError
from lmms_steer.models.answer_bias import LOOKED_AT
from lmms_steer.replay.agreement import Source
from lmms_steer.replay.changes import Deltas
from lmms_steer.search.batch_store import BatchStore
from lmms_steer.search.budgets import Resolution, resolve_budgets
from lmms_steer.search.generation_scorer import GenerationScorer
from lmms_steer.search.measure import Measurement, Measurer
from lmms_steer.search.plan import BUDGET_PROMPTS, Cell, Plan, split_control
from lmms_steer.search.questions import PreparedBatch, Question
from lmms_steer.search.scorers import Scored
from lmms_steer.search.strategies import Rung

BUDGETS_FILE = "budgets.json"
BUDGETS_FOLDER = "budgets"


@dataclass(frozen=True, slots=True)
class StudyBudgets:
    """The resolved budgets of a study.

    Attributes:
        resolutions: one for each vector, layer, token target and budget.
        prompts: on how many prompts they were resolved.
        replayed: whether some batches were replayed.
    """

    resolutions: Sequence[Resolution]
    prompts: int
    replayed: bool

    @property
    def found(self) -> dict[Cell, Resolution]:
        """The cells of the grid."""
        return {one.cell: one for one in self.resolutions if not one.failure}

    def lines(self) -> Iterator[str]:
        """The alphas of the user's vectors, and for all vectors the budgets that have none, by layer."""
        for (vector, tokens, budget), ones in self._groups().items():
            found = [one for one in ones if not one.failure]
            if found and split_control(vector)[1] is None:
                alphas = ", ".join(f"{one.cell.alpha:g} (layer {one.cell.layer})" for one in found)
                yield f"kl:{budget:g} of {vector} on {tokens} tokens: alpha {alphas}"
            failures = "; ".join(f"at layer {one.cell.layer} it {one.failure}" for one in ones if one.failure)
            if failures:
                yield f"left out: kl:{budget:g} of {vector} on {tokens} tokens: {failures}"

    def _groups(self) -> dict[tuple[str, str, float], list[Resolution]]:
        groups: dict[tuple[str, str, float], list[Resolution]] = {}
        for one in self.resolutions:
            groups.setdefault((one.cell.vector, one.cell.tokens, one.budget), []).append(one)
        return groups


class DamageMeasurer(Measurer):
    """Measures damage alone, without letting the model write its answers. The first batch alone is checked."""

    _checked = False

    def __call__(self, batch: Sequence[Question], cells: Sequence[Cell], check: bool = False) -> Measurement:
        """As `Measurer`: every round asks for a check, of the same replay with other alphas."""
        checks, self._checked = check and not self._checked, self._checked or check
        return super().__call__(batch, cells, checks)

    def _check_strengths(self, cells: Sequence[Cell]) -> None:
        """Any alpha may be tried: the damage of one that overflows is beyond every budget."""

    def _prepare(self, batch: Sequence[Question]) -> PreparedBatch:
        prepared = super()._prepare(batch)
        if isinstance(prepared.scorer, GenerationScorer):
            return replace(prepared, scorer=_DamageScorer(prepared.scorer))
        return prepared


class _DamageScorer:
    """In place of a scorer of generated text: the damage at the token that decides, and no scores."""

    def __init__(self, scorer: GenerationScorer) -> None:
        self.scorer, self.questions = scorer, len(scorer.batch)
        # no more of an answer is written than what may come before the token that decides
        scorer.settings["max_new_tokens"] = min(int(scorer.settings["max_new_tokens"]), LOOKED_AT)
        self.agrees = scorer.agrees

    def base(self, source: Source) -> Scored:  # noqa: ARG002  the interface of `LetterScorer`
        unknown = torch.full((self.questions,), torch.nan)
        return Scored(unknown, unknown, torch.zeros(self.questions))

    def answer_logits(self, source: Source) -> list[list[float]]:  # noqa: ARG002  likewise
        return [[] for _ in range(self.questions)]

    def scores(self, source: Source, layer: int, deltas: Deltas, targets: Sequence[str]) -> Scored:
        kl = self.scorer.damage(source, layer, deltas, targets)
        return Scored(torch.full_like(kl, torch.nan), torch.full_like(kl, torch.nan), kl)


def resolve_for_study(
    plan: Plan, places: Sequence[Cell], questions: Sequence[Question], measurer: DamageMeasurer, output: Path
) -> StudyBudgets:
    """Resolve a study's budgets, or read them from its batches, and write `budgets.json`.

    Args:
        plan: the search, with budgets.
        places: vectors, layers and token targets.
        questions: the study's questions, in its order.
        measurer: measures damage, and keeps what does not fit in memory in `output`.
        output: the study's folder.

    Raises:
        UserError: where no budget of some vector can be met.
    """
    prompts = questions[:BUDGET_PROMPTS]
    while True:
        with progress_bar(desc="budgets", unit=" answers") as bar:
            store = BatchStore(output / BUDGETS_FOLDER, measurer, prompts, plan.batch_size, bar, plan.sha256)

            def measure(number: int, cells: Sequence[Cell], store: BatchStore = store) -> list[float]:
                store(number, Rung(cells, range(len(prompts))))
                return [float(np.mean(store.kl[cell])) for cell in cells]

            found = resolve_budgets(places, plan.budgets, measure)
        if not store.has_refuted_batches:
            break
        store.forget_replayed()
    budgets = StudyBudgets(found, len(prompts), store.replayed > 0)
    for vector in plan.vectors:
        if all(cell.vector != vector for cell in budgets.found):
            failure = next(one for one in found if one.cell.vector == vector)
            where = f"first at layer {failure.cell.layer}, {failure.cell.tokens} tokens, where kl:{failure.budget:g}"
            raise UserError(f"no budget of {vector} can be met at any layer to search, {where} {failure.failure}")
    rows: list[dict[str, Any]] = [{**asdict(one), "failure": one.failure or None} for one in found]
    write_atomically(
        output / BUDGETS_FILE, json.dumps({"prompts": budgets.prompts, "resolved": rows}, indent=1).encode()
    )
    return budgets
