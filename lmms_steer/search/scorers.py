"""Score cells on a batch of questions by the logits of the next token.

A scorer takes a replay or a batch with hooks, and returns scores together with whether an answer could be read, and
how far steering moved the distribution of the token that decides.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lmms_steer.errors import UserError
from lmms_steer.replay.agreement import Source, agrees, next_logits
from lmms_steer.replay.changes import Delta, Deltas
from lmms_steer.replay.engine import Replay
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.search.questions import Question
from lmms_steer.steering.damage import divergence_from


class Scored(NamedTuple):
    """Scores of one batch, of the unsteered model or of several cells.

    Attributes:
        scores: float [questions] or [cells, questions].
        unparsed: 1 where no answer could be read, NaN where that is unknown; of the same shape.
        kl: KL(unsteered || steered) in nats at the token that decides; of the same shape.
    """

    scores: Tensor
    unparsed: Tensor
    kl: Tensor


class LetterScorer:
    """Scores by the next token: of a question's answers, the one whose first token has the largest logit counts.

    Args:
        lm: the model, for its tokens.
        batch: the questions, each with a fixed set of answers.

    Raises:
        UserError: if two answers of a question begin with the same token.
    """

    def __init__(self, lm: Any, batch: Sequence[Question]) -> None:
        token_ids = [_first_tokens(lm, question) for question in batch]
        for question, own in zip(batch, token_ids, strict=True):
            if len(set(own)) != len(own):
                raise UserError(
                    f"document {question.doc_id}: two of the answers {', '.join(question.answers)} begin with the same"
                    " token in this model, so the next token cannot decide between them: add --score generate"
                )
        columns = sorted({i for own in token_ids for i in own})
        self._columns = torch.tensor(columns)
        place = {token: number for number, token in enumerate(columns)}
        width = max(map(len, token_ids))
        self._places = torch.tensor([[place[i] for i in own] + [0] * (width - len(own)) for own in token_ids])
        self._possible = torch.tensor([[True] * len(own) + [False] * (width - len(own)) for own in token_ids])
        self._right = torch.tensor([question.right for question in batch])

    def base(self, source: Source) -> Scored:
        """Score the unsteered model.

        Returns:
            scores [questions], 1 where the answer is correct; `unparsed` is NaN, as one of the answers is always taken.
        """
        scores = self._correct(source.base[None, :, self._columns])[0]
        return _always_parsed(scores, torch.zeros_like(scores))

    def answer_logits(self, source: Source) -> list[list[float]]:
        """The unsteered logits of each question's answers."""
        logits = self._logits_of_answers(source.base[None, :, self._columns])[0]
        return [row[possible].tolist() for row, possible in zip(logits, self._possible, strict=True)]

    def scores(self, source: Source, layer: int, deltas: Deltas, targets: Sequence[str]) -> Scored:
        """Score several cells of one layer.

        Args:
            source: the batch.
            layer: the steered layer.
            deltas: what each cell does to it.
            targets: the token target of each cell.

        Returns:
            as `base`, [cells, questions].
        """
        divergence, columns = divergence_from(source.base), self._columns.to(source.base.device)

        def reduce(logits: Tensor) -> Tensor:
            return torch.cat((logits[..., columns].float(), divergence(logits)[..., None]), -1)

        reduced = source.reduce_all(layer, deltas, targets, reduce)
        return _always_parsed(self._correct(reduced[..., :-1]), reduced[..., -1].cpu())

    def margin(self, logits: Tensor) -> Tensor:
        """The correct answer's logit minus the largest other one, [questions]; `logits` are [questions, vocabulary]."""
        answers = logits.float()[:, self._columns].gather(1, self._places.to(logits.device))
        place = self._right[:, None].to(logits.device)
        others = answers.masked_fill(~self._possible.to(logits.device), -torch.inf).scatter(1, place, -torch.inf)
        return answers.gather(1, place)[:, 0] - others.amax(1)

    @staticmethod
    def agrees(replay: Replay, hooked: HookedBatch, layer: int, delta: Delta, tokens: str) -> bool:
        """Whether a replayed cell has the logits of the model with hooks."""
        return agrees(replay, hooked, layer, delta, tokens, next_logits)

    def _logits_of_answers(self, logits: Tensor) -> Tensor:
        """[cells, questions, columns] ▸ [cells, questions, most answers]."""
        answers = logits.float().cpu().gather(2, self._places.expand(logits.shape[0], -1, -1))
        return answers.masked_fill(~self._possible, -torch.inf)

    def _correct(self, logits: Tensor) -> Tensor:
        answers = self._logits_of_answers(logits)
        # a model that overflows says nothing; argmax would take its first answer
        says = torch.isfinite(answers.masked_fill(~self._possible, 0)).all(-1)
        return ((answers.argmax(-1) == self._right) & says).float()


def _always_parsed(scores: Tensor, kl: Tensor) -> Scored:
    return Scored(scores, torch.full_like(scores, torch.nan), kl)


def has_distinct_first_tokens(lm: Any, batch: Sequence[Question]) -> bool:
    """Whether every question has a fixed set of answers that begin with different tokens."""
    token_ids = [_first_tokens(lm, question) for question in batch]
    return all(own and len(set(own)) == len(own) for own in token_ids)


def _first_tokens(lm: Any, question: Question) -> list[int]:
    return [lm.first_token(answer) for answer in question.answers]
