"""Score cells on a batch of questions by the text that the model generates.

The damage is measured at the token that decides between a question's choices, after what the unsteered model writes
before it (`lmms_steer.search.deciding`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lmms_steer.errors import UserError, shorten
from lmms_steer.models.generation import cut_at, generation_settings, stop_strings
from lmms_steer.replay.agreement import Source, agrees
from lmms_steer.replay.changes import Delta, Deltas, alone, some_of
from lmms_steer.replay.engine import Replay
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.replay.kv_cache import KeysAndValues
from lmms_steer.replay.writer import Writer
from lmms_steer.search.deciding import deciding_places
from lmms_steer.search.first_token import FirstToken
from lmms_steer.search.lmms_eval_task import results_of
from lmms_steer.search.questions import Question
from lmms_steer.search.scorers import LetterScorer, Scored, has_distinct_first_tokens
from lmms_steer.steering.damage import divergence_from, first_call_logits


@dataclass(frozen=True, slots=True)
class _Unsteered:
    """What the unsteered model writes after a batch of questions.

    Attributes:
        answers: ids [questions, new tokens].
        places: the place of the token that decides, in the answer of each question.
        logits: those of the tokens that decide, [questions, vocabulary].
    """

    answers: Tensor
    places: list[int]
    logits: Tensor

    @property
    def last_place(self) -> int:
        """The last place of a token that decides."""
        return max(self.places)

    @property
    def before_decision(self) -> Tensor:
        """The answers up to the last token that decides, ids [questions, tokens]."""
        return self.answers[:, : self.last_place + 1]

    def at_places(self, steps: Sequence[Tensor], copies: int) -> Tensor:
        """The logits of each row's own place: steps of [copies * questions, …] ▸ [copies, questions, …]."""
        rows = torch.stack([steps[place][row] for row, place in enumerate(self.places * copies)])
        return rows.reshape(copies, len(self.places), -1)


class GenerationScorer:
    """Scores by generated text: the model generates greedily after the steered prompt, and the task scores the text.

    Args:
        lm: the model.
        task: an lmms-eval task with `output_type: generate_until`.
        batch: the questions.
        inputs: the batch as the model takes it.
        metric: the score that counts; None for the first in the task's list.

    Attributes:
        settings: options of `generate`.

    Raises:
        UserError: for a task of another output type.
    """

    _found: _Unsteered | None = None

    def __init__(
        self, lm: Any, task: Any, batch: Sequence[Question], inputs: dict[str, Any], metric: str | None = None
    ) -> None:
        if task.config.output_type != "generate_until":
            raise UserError(f"{task.config.task} is {task.config.output_type}: --score generate needs generate_until")
        self.lm, self.task, self.batch, self.inputs = lm, task, batch, inputs
        self._letters = LetterScorer(lm, batch) if batch and has_distinct_first_tokens(lm, batch) else None
        task_settings = dict(task.config.generation_kwargs or {})
        self._until = stop_strings(task_settings)
        self.settings = generation_settings(task_settings) | {"do_sample": False}
        self._metric = metric or str(task.config.metric_list[0]["metric"])

    def base(self, source: Source) -> Scored:
        """Score the unsteered model.

        Returns:
            scores [questions]; `unparsed` is NaN where the task does not report it.
        """
        scores, unparsed = self._scores(self._unsteered(source).answers)
        return Scored(scores, unparsed, torch.zeros_like(scores))

    def answer_logits(self, source: Source) -> list[list[float]]:
        """The unsteered logits of each question's answers at the token that decides.

        Empty where they have no fixed set, NaN where the model writes none of them there.
        """
        if self._letters is None:
            return [[] for _ in self.batch]
        unsteered = self._unsteered(source)
        rows = zip(unsteered.logits.float().cpu(), unsteered.answers.tolist(), unsteered.places, strict=True)
        return [self._of_answers(question, *row) for question, row in zip(self.batch, rows, strict=True)]

    def _of_answers(self, question: Question, logits: Tensor, written: list[int], place: int) -> list[float]:
        for token_of in (self.lm.first_token, self.lm.bracketed_token):
            ids = [token_of(answer) for answer in question.answers]
            if written[place] in ids:
                found: list[float] = logits[ids].tolist()
                return found
        return [math.nan] * len(question.answers)

    def scores(self, source: Source, layer: int, deltas: Deltas, targets: Sequence[str]) -> Scored:
        """Score several cells of one layer, as `LetterScorer.scores`; [cells, questions], otherwise as `base`."""
        kl = torch.zeros(len(targets), len(self.batch))
        texts = self.generate(source, layer, deltas, targets, kl)
        scores, unparsed = zip(*map(self._scores, texts), strict=True)
        return Scored(torch.stack(scores), torch.stack(unparsed), kl)

    def agrees(self, replay: Replay, hooked: HookedBatch, layer: int, delta: Delta, tokens: str) -> bool:
        """Whether a replayed cell has the logits of the model with hooks, at each token of the text that it writes."""
        return agrees(replay, hooked, layer, delta, tokens, self._written_logits)

    def generate(
        self, source: Source, layer: int, deltas: Deltas, targets: Sequence[str], kl: Tensor | None = None
    ) -> list[Tensor]:
        """Generate the answers of several cells of one layer.

        Args:
            source, layer, deltas, targets: as for `LetterScorer.scores`.
            kl: filled with KL(unsteered || steered) of the token that decides, after what the unsteered model writes
                before it, [cells, questions]; None if it is not needed.

        Returns:
            the token ids of each cell, each [questions, new tokens].
        """
        unsteered = None if kl is None else self._unsteered(source)
        divergence = None if unsteered is None else divergence_from(unsteered.logits)
        if isinstance(source, HookedBatch):
            ids = []
            for cell, (delta, tokens) in enumerate(zip(deltas, targets, strict=True)):
                with first_call_logits(self.lm.model) as first_logits:
                    ids.append(self._hooked(source, layer, delta, tokens))
                if kl is not None and unsteered is not None and divergence is not None:
                    again = unsteered.last_place > 0
                    logits = self._deciding_hooked(source, layer, delta, tokens) if again else first_logits[0]
                    kl[cell] = divergence(logits[None])[0].cpu()
            return ids
        if self._writer.writes_one_token:

            def first_tokens(logits: Tensor) -> Tensor:
                kls = torch.zeros(logits.shape[:2]) if divergence is None else divergence(logits)
                # float32 holds whole numbers up to 2**24, more than any vocabulary has
                return torch.stack((self._chosen(logits).float(), kls.to(logits.device)), -1)

            reduced = source.reduce_all(layer, deltas, targets, first_tokens)
            if kl is not None:
                kl.copy_(reduced[..., 1])
            return list(reduced[..., :1].long())

        def generate_stack(start: int, cells: list[int]) -> list[Tensor]:
            logits, cache = source.steer_with_cache(layer, some_of(deltas, cells), [targets[i] for i in cells], start)
            if kl is not None and unsteered is not None and divergence is not None:
                kl[cells] = divergence(self._deciding_after(unsteered, logits, cache)).cpu()
            first = self._chosen(logits).reshape(-1, 1)
            return list(self._writer.write_after(first, cache, len(cells)).chunk(len(cells)))

        return source.in_stacks(targets, generate_stack)

    def damage(self, source: Source, layer: int, deltas: Deltas, targets: Sequence[str]) -> Tensor:
        """The damage of several cells of one layer without their texts, as `generate` fills it into `kl`."""
        unsteered = self._unsteered(source)
        divergence = divergence_from(unsteered.logits)
        if not unsteered.last_place:
            return source.reduce_all(layer, deltas, targets, divergence).cpu()
        if isinstance(source, HookedBatch):
            cells = zip(deltas, targets, strict=True)
            return torch.cat([divergence(self._deciding_hooked(source, layer, *cell)[None]) for cell in cells]).cpu()

        def run(start: int, cells: list[int]) -> list[Tensor]:
            steered = source.steer_with_cache(layer, some_of(deltas, cells), [targets[i] for i in cells], start)
            return list(divergence(self._deciding_after(unsteered, *steered)))

        return torch.stack(source.in_stacks(targets, run)).cpu()

    @property
    def why_hooks(self) -> str:
        """Why a batch cannot be replayed with these settings; empty where it can."""
        return self._first.why_hooks

    @cached_property
    def _writer(self) -> Writer:
        return Writer(self.lm.model, self.inputs, self.settings)

    @cached_property
    def _first(self) -> FirstToken:
        return FirstToken(self.lm.model, self.settings)

    def _unsteered(self, source: Source) -> _Unsteered:
        """What the unsteered model writes, and where that is decided: from what a replay recorded, if there is one."""
        if self._found is None:
            self._found = self._read_unsteered(source)
        return self._found

    def _read_unsteered(self, source: Source) -> _Unsteered:
        recorded: KeysAndValues = {}
        if isinstance(source, HookedBatch):
            answers = self._writer.write()
        else:
            recorded = {} if self._writer.writes_one_token else source.keys_and_values
            answers = self._writer.write_after(self._chosen(source.base[None]).reshape(-1, 1), recorded, 1)
        if answers.shape[1] == 1 or not any(question.answers for question in self.batch):
            return _Unsteered(answers, [0] * len(self.batch), source.base)
        unsteered = _Unsteered(answers, deciding_places(self.lm.tokenizer, self.batch, answers), source.base)
        if not unsteered.last_place:
            return unsteered
        if isinstance(source, HookedBatch):
            logits = self._deciding_of_model(unsteered)
        else:
            logits = self._deciding_after(unsteered, source.base[None], recorded)[0]
        return replace(unsteered, logits=logits)

    def _deciding_hooked(self, source: HookedBatch, layer: int, delta: Delta, tokens: str) -> Tensor:
        """The logits of the tokens that decide, with hooks, [questions, vocabulary]."""
        unsteered = self._unsteered(source)
        with source.steered(layer, delta, tokens):
            return self._deciding_of_model(unsteered)

    def _deciding_of_model(self, unsteered: _Unsteered) -> Tensor:
        """The model's logits of the tokens that decide, [questions, vocabulary]."""
        steps, _ = self._writer.logits(unsteered.before_decision)
        return unsteered.at_places(steps, 1)[0]

    def _deciding_after(self, unsteered: _Unsteered, first: Tensor, keys_and_values: KeysAndValues) -> Tensor:
        """The logits of the tokens that decide, [cells, questions, vocabulary], from those of the first tokens."""
        if not unsteered.last_place:
            return first
        copies = len(first)
        text = unsteered.before_decision.repeat(copies, 1)
        steps = self._writer.logits_after(first.flatten(0, 1), text, keys_and_values, copies)
        return unsteered.at_places(steps, copies)

    def _hooked(self, source: HookedBatch, layer: int, delta: Delta, tokens: str) -> Tensor:
        with source.steered(layer, delta, tokens):
            return self._writer.write()

    @torch.inference_mode()
    def _written_logits(
        self, source: Source, layer: int, delta: Delta, tokens: str, written: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The logits that precede each token of a text; see `lmms_steer.replay.agreement.LogitsOf`.

        Returns:
            [tokens of all questions, vocabulary], and the text's ids [questions, new tokens].
        """
        if isinstance(source, HookedBatch):
            with source.steered(layer, delta, tokens):
                steps, text = self._writer.logits(written)
        else:
            text = written if written is not None else self.generate(source, layer, alone(delta), [tokens])[0]
            logits, cache = source.steer_with_cache(layer, alone(delta), [tokens], source.starts[tokens])
            steps = self._writer.logits_after(logits[0], text, cache, 1)
        lengths = [len(self._writer.until_end(row)) + 1 for row in text.tolist()]
        rows = [steps[n][row] for row, length in enumerate(lengths) for n in range(min(length, len(steps)))]
        return torch.stack(rows), text

    def _chosen(self, logits: Tensor) -> Tensor:
        """The first tokens [cells, questions]."""
        return self._first.choose(logits, self.inputs["input_ids"])

    def _scores(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [self._score(q, row) for q, row in zip(self.batch, ids.tolist(), strict=True)]
        scores, unparsed = torch.tensor(pairs).T
        return scores, unparsed

    def _score(self, question: Question, row: list[int]) -> tuple[float, float]:
        text = cut_at(self.lm.tokenizer.decode(self._writer.until_end(row), skip_special_tokens=True), self._until)
        results = results_of(self.task, question.doc, text)
        value, unparsed = results.get(self._metric), results.get("unparsed")
        # everything that is said of gains takes scores for shares; NaN would count as a question that was not asked
        if isinstance(value, bool | int | float) and 0 <= value <= 1:
            return float(value), float(unparsed) if isinstance(unparsed, bool | int | float) else torch.nan
        shown = shorten(repr(value)) if self._metric in results else "missing"
        raise UserError(
            f"{self.task.config.task}: its metric {self._metric} is {shown} for document {question.doc_id}: a search"
            " needs a number from 0 to 1 for each question (choose another with --metric)"
        )
