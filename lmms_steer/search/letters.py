"""Score cells by the next token: of a question's answers, the one whose first token has the largest logit is given."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lmms_steer.errors import UserError
from lmms_steer.search.asked import Asked
from lmms_steer.search.hooked import Hooked
from lmms_steer.search.replay import Replay
from lmms_steer.search.sound import same_logits


class Letters:
    """The answers of one batch.

    Args:
        lm: the model, for its tokens.
        batch: the questions.

    Raises:
        UserError: where two answers of a question begin with the same token.
    """

    def __init__(self, lm: Any, batch: Sequence[Asked]) -> None:
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

    def base(self, source: Replay | Hooked) -> Tensor:
        """float [2, questions]: 1 where the unsteered model is right; nan, as of the choices one is always taken."""
        return _with_nan(self._hits(source.base[None, :, self._columns])[0])

    def answers(self, source: Replay | Hooked) -> list[list[float]]:
        """The unsteered logits of each question's answers."""
        scores = self._scores(source.base[None, :, self._columns])[0]
        return [row[possible].tolist() for row, possible in zip(scores, self._possible, strict=True)]

    def hits(self, source: Replay | Hooked, layer: int, deltas: Tensor, targets: Sequence[str]) -> Tensor:
        """As `base`, float [2, cells, questions]: `deltas` [cells, width] and `targets` of cells at one layer."""
        return _with_nan(self._hits(source.steer_all(layer, deltas, targets, self._columns)))

    def margin(self, logits: Tensor) -> Tensor:
        """The right answer's logit over the largest other [questions], of `logits` [questions, vocabulary]."""
        chosen = logits.float()[:, self._columns].gather(1, self._places.to(logits.device))
        place = self._right[:, None].to(logits.device)
        others = chosen.masked_fill(~self._possible.to(logits.device), -torch.inf).scatter(1, place, -torch.inf)
        return chosen.gather(1, place)[:, 0] - others.amax(1)

    @staticmethod
    def same(replay: Replay, hooked: Hooked, layer: int, delta: Tensor, tokens: str) -> bool:
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


def told_apart(lm: Any, batch: Sequence[Asked]) -> bool:
    """Whether every question has answers of a fixed set, that begin with tokens of their own."""
    ids = [_ids(lm, question) for question in batch]
    return all(own and len(set(own)) == len(own) for own in ids)


def _ids(lm: Any, question: Asked) -> list[int]:
    return [lm.first_token(answer) for answer in question.answers]
