"""Score cells by the next token: of a question's answers, the one whose first token has the largest logit is given.

Score cells by what the model writes: greedy text behind steered prompts, scored by the task itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from lmms_steer.errors import UserError
from lmms_steer.models.loading import cut_at, generation_settings
from lmms_steer.search.hooked import HookedBatch, same_effect, same_logits
from lmms_steer.search.questions import Question
from lmms_steer.search.replay import Replay


class LetterScorer:
    """The answers of one batch.

    Args:
        lm: the model, for its tokens.
        batch: the questions.

    Raises:
        UserError: where two answers of a question begin with the same token.
    """

    def __init__(self, lm: Any, batch: Sequence[Question]) -> None:
        ids = [_ids(lm, question) for question in batch]
        for question, own in zip(batch, ids, strict=True):
            if len(set(own)) != len(own):
                raise UserError(
                    f"document {question.doc_id}: two of the answers {', '.join(question.answers)} begin with the same"
                    " token in this model, so that the next token does not tell them apart: add --score generate"
                )
        known = sorted({i for own in ids for i in own})
        self._columns = torch.tensor(known)
        place = {token: number for number, token in enumerate(known)}
        width = max(map(len, ids))
        self._places = torch.tensor([[place[i] for i in own] + [0] * (width - len(own)) for own in ids])
        self._possible = torch.tensor([[True] * len(own) + [False] * (width - len(own)) for own in ids])
        self._right = torch.tensor([question.right for question in batch])

    def base(self, source: Replay | HookedBatch) -> Tensor:
        """float [2, questions]: 1 where the unsteered model is right; nan, as of the choices one is always taken."""
        return _with_nan(self._hits(source.base[None, :, self._columns])[0])

    def answers(self, source: Replay | HookedBatch) -> list[list[float]]:
        """The unsteered logits of each question's answers."""
        scores = self._scores(source.base[None, :, self._columns])[0]
        return [row[possible].tolist() for row, possible in zip(scores, self._possible, strict=True)]

    def hits(self, source: Replay | HookedBatch, layer: int, deltas: Tensor, targets: Sequence[str]) -> Tensor:
        """As `base`, float [2, cells, questions]: `deltas` [cells, width] and `targets` of cells at one layer."""
        return _with_nan(self._hits(source.steer_all(layer, deltas, targets, self._columns)))

    def margin(self, logits: Tensor) -> Tensor:
        """The right answer's logit over the largest other [questions], of `logits` [questions, vocabulary]."""
        chosen = logits.float()[:, self._columns].gather(1, self._places.to(logits.device))
        place = self._right[:, None].to(logits.device)
        others = chosen.masked_fill(~self._possible.to(logits.device), -torch.inf).scatter(1, place, -torch.inf)
        return chosen.gather(1, place)[:, 0] - others.amax(1)

    @staticmethod
    def same(replay: Replay, hooked: HookedBatch, layer: int, delta: Tensor, tokens: str) -> bool:
        """Whether both give a cell the same logits."""
        return same_logits(replay, hooked, layer, delta, tokens)

    def _scores(self, logits: Tensor) -> Tensor:
        # [cells, questions, columns] ▸ [cells, questions, most answers]
        chosen = logits.float().cpu().gather(2, self._places.expand(logits.shape[0], -1, -1))
        return chosen.masked_fill(~self._possible, -torch.inf)

    def _hits(self, logits: Tensor) -> Tensor:
        return (self._scores(logits).argmax(-1) == self._right).float()


def _with_nan(hits: Tensor) -> Tensor:
    return torch.stack((hits, torch.full_like(hits, torch.nan)))


def has_distinct_first_tokens(lm: Any, batch: Sequence[Question]) -> bool:
    """Whether every question has answers of a fixed set, that begin with tokens of their own."""
    ids = [_ids(lm, question) for question in batch]
    return all(own and len(set(own)) == len(own) for own in ids)


def _ids(lm: Any, question: Question) -> list[int]:
    return [lm.first_token(answer) for answer in question.answers]


class GenerationScorer:
    """The answers of one batch.

    Args:
        lm: the model.
        task: of lmms-eval, with `output_type: generate_until`.
        batch: the questions.
        inputs: the batch as the model takes it.

    Raises:
        UserError: for a task that lets nothing be generated, or whose metric is no number for one question.
    """

    def __init__(self, lm: Any, task: Any, batch: Sequence[Question], inputs: dict[str, Any]) -> None:
        if task.config.output_type != "generate_until":
            raise UserError(f"{task.config.task} is {task.config.output_type}: --score generate needs generate_until")
        self.lm, self.task, self.batch, self.inputs = lm, task, batch, inputs
        self.letters = LetterScorer(lm, batch) if batch and has_distinct_first_tokens(lm, batch) else None
        given = dict(task.config.generation_kwargs or {})
        self.until, self.settings = given.get("until") or [], generation_settings(given) | {"do_sample": False}
        self.metric = str(task.config.metric_list[0]["metric"])

    def base(self, source: Replay | HookedBatch) -> Tensor:  # noqa: ARG002  as of `Letters`
        """Of each question, unsteered, float [2, questions]: the score; whether no answer could be read, nan where the
        task does not say."""
        return self._scores(self.lm.model.generate(**self.inputs, **self.settings)[:, self._length :])

    def answers(self, source: Replay | HookedBatch) -> list[list[float]]:
        """As of `Letters`, where the questions have answers of a fixed set; else none."""
        return self.letters.answers(source) if self.letters is not None else [[] for _ in self.batch]

    def hits(self, source: Replay | HookedBatch, layer: int, deltas: Tensor, targets: Sequence[str]) -> Tensor:
        """As `base`, float [2, cells, questions]: `deltas` [cells, width] and `targets` of cells at one layer."""
        return torch.stack([self._scores(ids) for ids in self.ids(source, layer, deltas, targets)], 1)

    def same(self, replay: Replay, hooked: HookedBatch, layer: int, delta: Tensor, tokens: str) -> bool:
        """Whether both write the same, and move the first token's logits alike: a text seldom tells a weak cell."""
        if not same_effect(replay, hooked, layer, delta, tokens):
            return False
        ours, theirs = (self.ids(source, layer, delta[None], [tokens])[0].tolist() for source in (replay, hooked))
        return [self._ended(row) for row in ours] == [self._ended(row) for row in theirs]

    def ids(self, source: Replay | HookedBatch, layer: int, deltas: Tensor, targets: Sequence[str]) -> list[Tensor]:
        """What is generated for each cell, [questions, new tokens]."""
        if isinstance(source, HookedBatch):
            return [self._hooked(source, layer, delta, tokens) for delta, tokens in zip(deltas, targets, strict=True)]
        if self.settings["max_new_tokens"] == 1:
            return list(source.steer_all(layer, deltas, targets).argmax(-1, keepdim=True))

        def said(start: int, cells: list[int]) -> list[Tensor]:
            logits, kept = source.steer_and_keep(layer, deltas[cells], [targets[i] for i in cells], start)
            first = logits.argmax(-1).reshape(-1, 1)
            return list(self._continue(first, kept, len(cells)).chunk(len(cells)))

        return source.in_stacks(targets, said)

    def _hooked(self, source: HookedBatch, layer: int, delta: Tensor, tokens: str) -> Tensor:
        with source.steered(layer, delta, tokens):
            return self.lm.model.generate(**self.inputs, **self.settings)[:, self._length :]  # type: ignore[no-any-return]

    @torch.inference_mode()
    def _continue(self, first: Tensor, kept: Mapping[int, tuple[Tensor, Tensor]], copies: int) -> Tensor:
        """The tokens behind `first` [copies * questions, 1] too."""
        cache = DynamicCache(config=self.lm.model.config.get_text_config(decoder=True))
        for layer in sorted(kept):
            cache.update(*kept[layer], layer)
        texts = {name: self.inputs[name] for name in ("token_type_ids", "mm_token_type_ids") if name in self.inputs}
        longer = {name: _longer(tensor, torch.zeros_like(first), copies) for name, tensor in texts.items()}
        with _of_copies(self.lm.model, copies):
            output = self.lm.model.generate(
                input_ids=_longer(self.inputs["input_ids"], first, copies),
                attention_mask=_longer(self.inputs["attention_mask"], torch.ones_like(first), copies),
                past_key_values=cache,
                **longer,
                **{**self.settings, "max_new_tokens": int(self.settings["max_new_tokens"]) - 1},
            )
        return output[:, self._length :]  # type: ignore[no-any-return]

    def _scores(self, ids: Tensor) -> Tensor:
        return torch.tensor([self._score(q, row) for q, row in zip(self.batch, ids.tolist(), strict=True)]).T

    def _ended(self, row: list[int]) -> list[int]:
        ends = self.lm.model.generation_config.eos_token_id
        stops = ends if isinstance(ends, list) else [ends]
        return row[: next((i for i, token in enumerate(row) if token in stops), len(row))]

    def _score(self, question: Question, row: list[int]) -> tuple[float, float]:
        text = cut_at(self.lm.tokenizer.decode(self._ended(row), skip_special_tokens=True), self.until)
        found = self.task.process_results(question.doc, [text])
        value, unparsed = found.get(self.metric), found.get("unparsed")
        if isinstance(value, bool | int | float):
            return float(value), float(unparsed) if isinstance(unparsed, bool | int | float) else torch.nan
        raise UserError(f"{self.task.config.task}: its metric {self.metric} is no number for one question")

    @property
    def _length(self) -> int:
        return int(self.inputs["input_ids"].shape[1])


def _longer(tensor: Tensor, last: Tensor, copies: int) -> Tensor:
    return torch.cat((tensor.repeat(copies, 1), last), 1)


@contextmanager
def _of_copies(model: Any, copies: int) -> Iterator[None]:
    """Qwen's models remember of each prompt how far its images moved the positions: as often as it was stacked."""
    inner: Any = getattr(model, "model", None)
    moved = getattr(inner, "rope_deltas", None)
    if isinstance(moved, Tensor):
        inner.rope_deltas = moved.repeat(copies, 1)
    try:
        yield
    finally:
        if isinstance(moved, Tensor):
            inner.rope_deltas = moved
