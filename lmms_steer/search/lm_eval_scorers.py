"""Score cells as lm-eval does: by the log-likelihoods of given answers, or by generated text.

Requests are encoded by lm-eval's own functions, and scored by the task.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from torch import Tensor

from lmms_steer.errors import UserError
from lmms_steer.replay.agreement import Source, agrees, next_logits
from lmms_steer.replay.changes import Delta, Deltas
from lmms_steer.replay.engine import Replay
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.search.generation_scorer import GenerationScorer
from lmms_steer.search.questions import OtherTask, Question
from lmms_steer.search.scorers import Scored
from lmms_steer.steering.damage import divergence_from

GREEDY_SETTINGS = ("until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k")
"""Settings of generation that are understood, and have no effect on greedy decoding apart from the first two."""


class LikelihoodScorer:
    """Scores by the log-likelihood of each of a question's answers, as lm-eval's `loglikelihood` computes it.

    An answer counts as generated text, so it is not steered. Answers of a question that differ in their last token only
    share a row.

    Args:
        lm: lm-eval's model, `lmms_steer.harness.lm_eval.SteeredHFLM`.
        task: the task.
        batch: the questions.

    Attributes:
        inputs: the rows as the model takes them, padded on the left.
        scored: how many of each row's last positions are an answer's, int [rows].
        question_of: the question of each row, as a place in the batch, int [rows].
    """

    def __init__(self, lm: Any, task: OtherTask, batch: Sequence[Question]) -> None:
        self.task, self.batch, self._softmax_dtype = task, batch, lm.softmax_dtype
        encoded = iter(_encode(lm, [request for question in batch for request in question.requests]))
        rows: dict[tuple[int, int, tuple[int, ...]], int] = {}
        self._answers: list[list[tuple[int, Tensor]]] = []
        for place, question in enumerate(batch):
            self._answers.append([])
            for _ in question.requests:
                context, answer = next(encoded)
                # the last token is predicted but never part of the input, and too long a context loses its beginning
                ids = (context + answer)[-(lm.max_length + 1) :][:-1]
                if len(answer) > len(ids):
                    raise UserError(
                        f"{task.config.task}, document {question.doc_id}: an answer of {len(answer)} tokens is longer"
                        f" than the model's context of {lm.max_length}"
                    )
                row = rows.setdefault((place, len(answer), tuple(ids)), len(rows))
                self._answers[-1].append((row, torch.tensor(answer, device=lm.device)))
        width = max(len(ids) for _, _, ids in rows)
        pad = lm.tokenizer.pad_token_id or 0
        padded = [[pad] * (width - len(ids)) + list(ids) for _, _, ids in rows]
        attention = [[0] * (width - len(ids)) + [1] * len(ids) for _, _, ids in rows]
        self.inputs = {
            "input_ids": torch.tensor(padded, device=lm.device),
            "attention_mask": torch.tensor(attention, device=lm.device),
        }
        if "position_ids" in inspect.signature(lm.model.forward).parameters:
            # so that padding does not shift positions in models whose positions are absolute
            self.inputs["position_ids"] = (self.inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
        self.scored = torch.tensor([length - 1 for _, length, _ in rows])
        self.question_of = torch.tensor([place for place, _, _ in rows])

    def base(self, source: Source) -> Scored:
        """Score the unsteered model; [questions]."""
        (scores,) = self._scores_of(self._likelihoods(source.base[None]))
        return Scored(scores, torch.full_like(scores, torch.nan), torch.zeros_like(scores))

    def answer_logits(self, source: Source) -> list[list[float]]:  # noqa: ARG002  the interface of `LetterScorer`
        """Empty for every question: no answer biases are fitted."""
        return [[] for _ in self.batch]

    def scores(self, source: Source, layer: int, deltas: Deltas, targets: Sequence[str]) -> Scored:
        """Score several cells of one layer, as `LetterScorer.scores`; [cells, questions]."""
        divergences = [divergence_from(logits[0]) for logits in self._deciding(source.base[None])]

        def reduce(logits: Tensor) -> Tensor:
            deciding = zip(divergences, self._deciding(logits), strict=True)
            kl = torch.stack([divergence(own).mean(1) for divergence, own in deciding], 1)
            return torch.cat((self._likelihoods(logits).flatten(1), kl), 1)

        reduced, n = source.reduce_all(layer, deltas, targets, reduce), len(self.batch)
        scores = torch.stack(self._scores_of(reduced[:, :-n].unflatten(1, (-1, 2))))
        return Scored(scores, torch.full_like(scores, torch.nan), reduced[:, -n:].cpu())

    def margin(self, logits: Tensor) -> Tensor:
        """The right answer's log-likelihood minus the largest other one, [questions].

        Args:
            logits: [rows, tokens, vocabulary].
        """
        likelihoods = iter(self._likelihoods(logits[None].float())[0, :, 0])
        margins = []
        for question, answers in zip(self.batch, self._answers, strict=True):
            own = torch.stack([next(likelihoods) for _ in answers])[: len(question.answers)]
            others = torch.cat((own[: question.right], own[question.right + 1 :]))
            margins.append(own[question.right] - others.amax())
        return torch.stack(margins)

    @staticmethod
    def agrees(replay: Replay, hooked: HookedBatch, layer: int, delta: Delta, tokens: str) -> bool:
        """Whether a replayed cell has the logits of the model with hooks."""
        return agrees(replay, hooked, layer, delta, tokens, next_logits)

    def _likelihoods(self, logits: Tensor) -> Tensor:
        """The log-likelihood of every answer of every question, and 1 if it is the greedy one.

        Args:
            logits: [cells, rows, tokens, vocabulary].

        Returns:
            [cells, answers, 2].
        """
        log_probabilities = F.log_softmax(logits, dim=-1, dtype=self._softmax_dtype)
        found = []
        for row, answer in (pair for answers in self._answers for pair in answers):
            own, ids = log_probabilities[:, row, -len(answer) :], answer.to(logits.device)
            likelihood = own.gather(-1, ids.expand(len(own), -1)[..., None])[..., 0].sum(-1)
            greedy = (own.argmax(-1) == ids).all(-1)
            found.append(torch.stack((likelihood.float(), greedy.float()), -1))
        return torch.stack(found, 1)

    def _deciding(self, logits: Tensor) -> list[Tensor]:
        """For each question, the logits at the token that decides between its answers, [cells, answers, vocabulary].

        It is the first token in which they differ; the first of each answer where one begins with another, or where
        all are the same.

        Args:
            logits: [cells, rows, tokens, vocabulary].
        """
        found = []
        for question, requested in zip(self.batch, self._answers, strict=True):
            # those after the choices' own are for mutual information, with other contexts
            answers = requested[: len(question.answers) or None]
            shortest = min(len(answer) for _, answer in answers)
            heads = torch.stack([answer[:shortest] for _, answer in answers])
            place = int((heads != heads[0]).any(0).int().argmax())
            found.append(torch.stack([logits[:, row, place - len(answer)] for row, answer in answers], 1))
        return found

    def _scores_of(self, likelihoods: Tensor) -> list[Tensor]:
        """The questions' scores in each cell; arguments as returned by `_likelihoods`."""
        cells = []
        for cell in likelihoods.tolist():
            pairs = iter((likelihood, bool(greedy)) for likelihood, greedy in cell)
            scores = [
                self.task.score(question, [next(pairs) for _ in answers])
                for question, answers in zip(self.batch, self._answers, strict=True)
            ]
            cells.append(torch.tensor(scores))
        return cells


class TextScorer(GenerationScorer):
    """Scores by generated text, as lm-eval's `generate_until` generates it.

    Args:
        lm, task, batch: as for `LikelihoodScorer`.

    Raises:
        UserError: for a task that samples, or sets something else than where an answer ends.
    """

    def __init__(self, lm: Any, task: OtherTask, batch: Sequence[Question]) -> None:
        requests = [question.requests[0] for question in batch]
        given = dict(requests[0].args[1])
        for name, value in given.items():
            if name not in GREEDY_SETTINGS:
                raise UserError(
                    f"{task.config.task} sets {name}={value} for generation, which lmms-steer search does not support"
                )
        settings = dict(normalize_gen_kwargs(given, lm.max_gen_toks))
        if settings.get("do_sample"):
            raise UserError(f"{task.config.task} samples its answers: a search needs greedy ones")
        eos = lm.tok_decode(lm.eot_token_id, skip_special_tokens=False)
        self._until = handle_stop_sequences(settings.get("until"), eos=eos)
        new_tokens = int(settings["max_gen_toks"])
        if new_tokens >= lm.max_length:
            raise UserError(
                f"{task.config.task} generates {new_tokens} tokens, but the model's context has {lm.max_length}"
            )
        contexts = [request.args[0] for request in requests]
        ids, attention = lm.tok_batch_encode(
            contexts, left_truncate_len=lm.max_length - new_tokens, truncation=lm.truncation
        )
        self.lm, self.batch, self.own_task = lm, batch, task
        self.inputs = {"input_ids": ids.to(lm.device), "attention_mask": attention.to(lm.device)}
        self.settings = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": lm.tokenizer.pad_token_id}
        self._letters = None

    def _score(self, question: Question, row: list[int]) -> tuple[float, float]:
        text = postprocess_generated_text(self.lm.tok_decode(self._writer.until_end(row)), self._until, None)
        return self.own_task.score(question, [text]), torch.nan


class _Encoder:
    """lm-eval's model, but for one thing: what it would run, it returns."""

    def __init__(self, lm: Any) -> None:
        self._lm = lm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lm, name)

    @staticmethod
    def _loglikelihood_tokens(requests: list[Any], **_: Any) -> list[tuple[list[int], list[int]]]:
        return [(context, answer) for _, context, answer in requests]


def _encode(lm: Any, requests: Sequence[Any]) -> list[tuple[list[int], list[int]]]:
    """The tokens of each request's context and answer, by lm-eval's own function."""
    encoder: Any = _Encoder(lm)
    encoded: Any = TemplateLM.loglikelihood(encoder, list(requests), disable_tqdm=True)
    return list(encoded)
