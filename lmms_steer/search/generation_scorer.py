"""Score cells on a batch of questions by the text that the model generates.

The damage is measured at the token that decides between a question's choices, after what the unsteered model writes
before it (`lmms_steer.search.deciding`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lmms_steer.errors import UserError, shorten
from lmms_steer.models.forced import writing
from lmms_steer.models.generation import cut_at, generation_settings, stop_strings
from lmms_steer.search.agreement import Source, agrees
from lmms_steer.search.changes import Delta, Deltas, alone, some_of
from lmms_steer.search.deciding import deciding_places
from lmms_steer.search.first_token import FirstToken
from lmms_steer.search.hooked import HookedBatch
from lmms_steer.search.kv_cache import KeysAndValues
from lmms_steer.search.lmms_eval_task import results_of
from lmms_steer.search.questions import Question
from lmms_steer.search.replay import Replay
from lmms_steer.search.scorers import LetterScorer, Scored, has_distinct_first_tokens
from lmms_steer.steering.anatomy import generating_part
from lmms_steer.steering.cache_argument import cache_name
from lmms_steer.steering.damage import divergence_from, first_call_logits
from lmms_steer.steering.decoder_inputs import decoder_ids


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

    def base(self, source: Source) -> Scored:  # noqa: ARG002  the interface of `LetterScorer`
        """Score the unsteered model.

        Returns:
            scores [questions]; `unparsed` is NaN where the task does not report it.
        """
        scores, unparsed = self._scores(self._unsteered_answers)
        return Scored(scores, unparsed, torch.zeros_like(scores))

    def answer_logits(self, source: Source) -> list[list[float]]:
        """The unsteered logits of each question's answers at the token that decides.

        Empty where they have no fixed set, NaN where the model writes none of them there.
        """
        if self._letters is None:
            return [[] for _ in self.batch]
        logits = self._deciding_base(source).float().cpu()
        rows = zip(logits, self._unsteered_answers.tolist(), self._places, strict=True)
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
        divergence = None if kl is None else divergence_from(self._deciding_base(source))

        if isinstance(source, HookedBatch):
            ids = []
            for cell, (delta, tokens) in enumerate(zip(deltas, targets, strict=True)):
                with first_call_logits(self.lm.model) as first_logits:
                    ids.append(self._hooked(source, layer, delta, tokens))
                if kl is not None and divergence is not None:
                    again = self._last_place > 0
                    logits = self._deciding_hooked(source, layer, delta, tokens) if again else first_logits[0]
                    kl[cell] = divergence(logits[None])[0].cpu()
            return ids
        if self.settings["max_new_tokens"] == 1:

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
            if kl is not None and divergence is not None:
                kl[cells] = divergence(self._deciding_logits(logits, cache)).cpu()
            first = self._chosen(logits).reshape(-1, 1)
            return list(self._continue(first, cache, len(cells)).chunk(len(cells)))

        return source.in_stacks(targets, generate_stack)

    def damage(self, source: Source, layer: int, deltas: Deltas, targets: Sequence[str]) -> Tensor:
        """The damage of several cells of one layer without their texts, as `generate` fills it into `kl`."""
        divergence = divergence_from(self._deciding_base(source))
        if not self._last_place:
            return source.reduce_all(layer, deltas, targets, divergence).cpu()
        if isinstance(source, HookedBatch):
            cells = zip(deltas, targets, strict=True)
            return torch.cat([divergence(self._deciding_hooked(source, layer, *cell)[None]) for cell in cells]).cpu()

        def run(start: int, cells: list[int]) -> list[Tensor]:
            steered = source.steer_with_cache(layer, some_of(deltas, cells), [targets[i] for i in cells], start)
            return list(divergence(self._deciding_logits(*steered)))

        return torch.stack(source.in_stacks(targets, run)).cpu()

    @property
    def why_hooks(self) -> str:
        """Why a batch cannot be replayed with these settings; empty where it can."""
        return self._first.why_hooks

    @cached_property
    def _first(self) -> FirstToken:
        return FirstToken(self.lm.model, self.settings)

    @cached_property
    def _unsteered_answers(self) -> Tensor:
        """What the unsteered model writes, [questions, new tokens]."""
        ids: Tensor = self.lm.model.generate(**self.inputs, **self.settings)
        return ids[:, self._length :]

    @cached_property
    def _places(self) -> list[int]:
        """The place of the token that decides, in the unsteered answer of each question."""
        if self.settings["max_new_tokens"] == 1 or not any(question.answers for question in self.batch):
            return [0] * len(self.batch)
        return deciding_places(self.lm.tokenizer, self.batch, self._unsteered_answers)

    @property
    def _last_place(self) -> int:
        return max(self._places)

    @cached_property
    def _unsteered_deciding(self) -> Tensor:
        return self._deciding_of_model()

    def _deciding_base(self, source: Source) -> Tensor:
        """The unsteered logits of the tokens that decide, [questions, vocabulary]."""
        return self._unsteered_deciding if self._last_place else source.base

    def _deciding_hooked(self, source: HookedBatch, layer: int, delta: Delta, tokens: str) -> Tensor:
        """The logits of the tokens that decide, with hooks, [questions, vocabulary]."""
        with source.steered(layer, delta, tokens):
            return self._deciding_of_model()

    def _deciding_of_model(self) -> Tensor:
        """The model's logits of the tokens that decide, [questions, vocabulary]."""
        return self._at_places(self.lm.model.generate(**self.inputs, **self._writing_prefix(1)).logits, 1)[0]

    def _deciding_logits(self, first: Tensor, keys_and_values: KeysAndValues) -> Tensor:
        """The logits of the tokens that decide, [cells, questions, vocabulary], from those of the first tokens."""
        if not self._last_place:
            return first
        copies = len(first)
        own_first = self._unsteered_answers[:, :1].repeat(copies, 1)
        output = self._generate_after(own_first, keys_and_values, copies, self._writing_prefix(copies))
        return self._at_places((first.flatten(0, 1), *output.logits), copies)

    def _writing_prefix(self, copies: int) -> dict[str, Any]:
        """Options that make `generate` write the unsteered answers up to the last token that decides."""
        ids = self._unsteered_answers[:, : self._last_place + 1].repeat(copies, 1)
        settings = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        return settings | writing(ids, self._length)

    def _at_places(self, steps: Sequence[Tensor], copies: int) -> Tensor:
        """The logits of each row's own place: steps of [copies * questions, …] ▸ [copies, questions, …]."""
        rows = torch.stack([steps[place][row] for row, place in enumerate(self._places * copies)])
        return rows.reshape(copies, len(self.batch), -1)

    def _hooked(self, source: HookedBatch, layer: int, delta: Delta, tokens: str) -> Tensor:
        with source.steered(layer, delta, tokens):
            return self.lm.model.generate(**self.inputs, **self.settings)[:, self._length :]  # type: ignore[no-any-return]

    @torch.inference_mode()
    def _written_logits(
        self, source: Source, layer: int, delta: Delta, tokens: str, written: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The logits that precede each token of a text; see `lmms_steer.search.agreement.LogitsOf`.

        Returns:
            [tokens of all questions, vocabulary], and the text's ids [questions, new tokens].
        """
        settings = {**self.settings, **writing(written, self._length)}
        settings |= {"return_dict_in_generate": True, "output_logits": True}
        if isinstance(source, HookedBatch):
            with source.steered(layer, delta, tokens):
                output = self.lm.model.generate(**self.inputs, **settings)
            steps, text = output.logits, output.sequences[:, self._length :]
        else:
            text = written if written is not None else self.generate(source, layer, alone(delta), [tokens])[0]
            logits, cache = source.steer_with_cache(layer, alone(delta), [tokens], source.starts[tokens])
            steps = (logits[0],)
            if text.shape[1] > 1:
                more = {**settings, "max_new_tokens": text.shape[1]}
                output = self._generate_after(text[:, :1], cache, 1, more | writing(text, self._length))
                steps += output.logits
        lengths = [len(self._until_end(row)) + 1 for row in text.tolist()]
        rows = [steps[n][row] for row, length in enumerate(lengths) for n in range(min(length, len(steps)))]
        return torch.stack(rows), text

    def _chosen(self, logits: Tensor) -> Tensor:
        """The first tokens [cells, questions]."""
        return self._first.choose(logits, self.inputs["input_ids"])

    def _continue(self, first: Tensor, keys_and_values: KeysAndValues, copies: int) -> Tensor:
        """Generate after the first tokens [copies * questions, 1]; returns them with the tokens that follow."""
        ids: Tensor = self._generate_after(first, keys_and_values, copies, self.settings)
        return ids[:, self._length :]

    @torch.inference_mode()
    def _generate_after(
        self, first: Tensor, keys_and_values: KeysAndValues, copies: int, settings: Mapping[str, Any]
    ) -> Any:
        """What `generate` returns after the first tokens [copies * questions, 1]."""
        cache = DynamicCache(config=self.lm.model.config.get_text_config(decoder=True))
        for layer in sorted(keys_and_values):
            cache.update(*keys_and_values[layer], layer)
        types = {name: self.inputs[name] for name in ("token_type_ids", "mm_token_type_ids") if name in self.inputs}
        longer = {name: _extended(tensor, torch.zeros_like(first), copies) for name, tensor in types.items()}
        with _stacked_rope_deltas(self.lm.model, copies):
            # the images are in the cache
            return self._generator.generate(
                input_ids=_extended(self.inputs["input_ids"], first, copies),
                attention_mask=_extended(self.inputs["attention_mask"], torch.ones_like(first), copies),
                **{cache_name(self._generator): cache},
                **longer,
                **{**settings, "max_new_tokens": int(settings["max_new_tokens"]) - 1},
            )

    def _scores(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        pairs = [self._score(q, row) for q, row in zip(self.batch, ids.tolist(), strict=True)]
        scores, unparsed = torch.tensor(pairs).T
        return scores, unparsed

    def _until_end(self, row: list[int]) -> list[int]:
        ends = self._generator.generation_config.eos_token_id
        stops = ends if isinstance(ends, list) else [ends]
        return row[: next((i for i, token in enumerate(row) if token in stops), len(row))]

    def _score(self, question: Question, row: list[int]) -> tuple[float, float]:
        text = cut_at(self.lm.tokenizer.decode(self._until_end(row), skip_special_tokens=True), self._until)
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

    @cached_property
    def _generator(self) -> Any:
        """The model whose `generate` writes the text: in BLIP-2, the language model inside."""
        return generating_part(self.lm.model) or self.lm.model

    @property
    def _length(self) -> int:
        return int(decoder_ids(self.inputs).shape[1])


def _extended(tensor: Tensor, last: Tensor, copies: int) -> Tensor:
    return torch.cat((tensor.repeat(copies, 1), last), 1)


@contextmanager
def _stacked_rope_deltas(model: Any, copies: int) -> Iterator[None]:
    """Repeat what Qwen's models store for each prompt: how far its images shifted the positions."""
    inner: Any = getattr(model, "model", None)
    deltas = getattr(inner, "rope_deltas", None)
    if isinstance(deltas, Tensor):
        inner.rope_deltas = deltas.repeat(copies, 1)
    try:
        yield
    finally:
        if isinstance(deltas, Tensor):
            inner.rope_deltas = deltas
