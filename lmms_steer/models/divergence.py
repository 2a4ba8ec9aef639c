"""How far a run's answers are from the plain model's: KL(run || plain model), in nats, along the run's own answers.

It is the expected log-likelihood ratio of an answer that the run writes (Kullback and Leibler 1951), read along the one
that it wrote. The damage of a search's cells is the other direction; it is infinite where a contrast rules tokens out.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from lmms_steer.models.batches import run_grouped

TOKENS = 16
"""Of an answer that are read: the logits of a long one would not fit in memory."""


def answer_divergence(run: Tensor, plain: Tensor, labels: Tensor) -> list[float]:
    """KL(run || plain model), summed over the tokens of each answer.

    Args:
        run: the run's logits at each place of its answers, [questions, places, vocabulary].
        plain: those of the plain model.
        labels: int [questions, places], -100 outside of the answers.

    Returns:
        nats, at least 0; infinite where logits are not finite.
    """
    log_q, log_p = run.float().log_softmax(-1), plain.float().log_softmax(-1)
    nats = (log_q.exp() * (log_q - log_p)).sum(-1).nan_to_num(torch.inf, torch.inf)
    of_answers: list[float] = nats.masked_fill(labels == -100, 0.0).sum(-1).clamp_min(0.0).tolist()
    return of_answers


class DivergenceMeter:
    """Measures a run on the first questions of each task, by two more forward calls.

    Args:
        lm: the model, with `answer_logits` and `unsteered`.
        limit: how many questions of a task.
    """

    def __init__(self, lm: Any, limit: int) -> None:
        self.lm, self.limit = lm, limit
        self._found: dict[str, list[float]] = {}

    def reset(self) -> None:
        """Forget what was measured: what comes next is another run."""
        self._found.clear()

    def measure(self, task: str, answered: Sequence[tuple[str, Any, str]], group_of: Callable[[Any], Hashable]) -> None:
        """Measure a task's questions. Answers without a token are left out.

        Args:
            task: its name.
            answered: question, visuals, and what the run answers, of the first questions.
            group_of: as of `run_grouped`.
        """
        shortened = [(question, visuals, self._beginning(answer)) for question, visuals, answer in answered]
        shortened = [one for one in shortened if one[2]]
        size = self.lm.batch_size
        for start in range(0, len(shortened), size):
            self._found.setdefault(task, []).extend(run_grouped(shortened[start : start + size], group_of, self._of))

    def record(self) -> dict[str, dict[str, float]]:
        """Task ▸ the mean in `nats` (left out where it is infinite), and the number of `questions`."""
        return {
            task: {**({"nats": fmean(nats)} if math.isfinite(fmean(nats)) else {}), "questions": len(nats)}
            for task, nats in self._found.items()
        }

    def _of(self, batch: Sequence[tuple[str, Any, str]]) -> list[float]:
        run, labels = self.lm.answer_logits(batch)
        with self.lm.unsteered():
            plain, _ = self.lm.answer_logits(batch, plain=True)
        return answer_divergence(run, plain, labels)

    def _beginning(self, answer: str) -> str:
        # as the prompt format reads it
        answer = answer.strip()
        ids = self.lm.tokenizer(answer, add_special_tokens=False)["input_ids"]
        return answer if len(ids) <= TOKENS else self.lm.tokenizer.decode(ids[:TOKENS])
