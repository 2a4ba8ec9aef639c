"""A control for a search: a bias for each answer word, fitted on the same questions, that leaves the model untouched.

Where steering gains no more than these biases do, it may have changed which answers the model prefers, not what it
sees.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lmms_steer.search.questions import Question
from lmms_steer.statistics import Floats

MAX_WORDS = 64
"""With more different answers than this, none comes often enough for a preference to show."""
MIN_GAP = 1e-3
"""Logits that differ by less than this count as equal."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fitted answer biases and their effect.

    Attributes:
        biases: word ▸ what is added to the logit of its first token; one word for each token, as others share its bias.
        base, scores: 1 where the likeliest of a question's answers is correct, without and with the biases, float
            [questions].
    """

    biases: dict[str, float]
    base: Floats
    scores: Floats


def calibrate(
    questions: Sequence[Question], logits: Mapping[int, Sequence[float]], first_token: Callable[[str], int]
) -> Calibration | None:
    """Fit biases to the unsteered logits of a study's questions.

    Args:
        questions: the questions.
        logits: place of a question ▸ the unsteered logits of its answers.
        first_token: word ▸ the id of its first token, whose logit a bias is added to.

    Returns:
        the biases; None where the answers are not of one small set of words, or the model overflows on all questions.
    """
    words = sorted({word for question in questions for word in question.answers})
    if not words or len(words) > MAX_WORDS or not all(logits[number] for number in range(len(questions))):
        return None
    tokens = {word: first_token(word) for word in words}
    # one word stands for each token, the first by name; the answers of one question have different tokens
    word_of = {token: word for word, token in reversed(tokens.items())}
    biased = sorted(word_of.values())
    place = {word: biased.index(word_of[token]) for word, token in tokens.items()}
    scores = torch.full((len(questions), len(biased)), -1e9)
    possible = torch.zeros_like(scores, dtype=torch.bool)
    for number, question in enumerate(questions):
        columns = [place[word] for word in question.answers]
        scores[number, columns], possible[number, columns] = torch.tensor(logits[number]), True
    right = torch.tensor([place[question.answers[question.right]] for question in questions])
    # a model that overflows says nothing, with or without biases
    says = torch.isfinite(scores).all(1)
    if not says.any():
        return None
    bias = fit_answer_bias(scores[says], possible[says], right[says].tolist())
    base, hits = (
        ((scores + b).masked_fill(~possible, -1e9).argmax(1) == right) & says for b in (torch.zeros_like(bias), bias)
    )
    return Calibration(dict(zip(biased, bias.tolist(), strict=True)), base.double().numpy(), hits.double().numpy())


def fit_answer_bias(scores: Tensor, choices: Tensor, answers: Sequence[int], penalty: float = 1e-3) -> Tensor:
    """Fit biases that make the correct answers most likely.

    Args:
        scores: the unsteered logits of each answer word, float [questions, words].
        choices: which words are choices of a question, bool [questions, words].
        answers: the correct word of each question.
        penalty: on the squared biases. It is doubled until no bias exceeds the widest gap between two choices of a
            question: such a bias undoes any preference, and a larger one makes the model begin with words that it
            never writes.

    Returns:
        the biases, float [words], with mean zero.
    """
    logits = scores.float()
    masked, target = logits.masked_fill(~choices, -1e9), torch.tensor(answers)
    lowest = logits.masked_fill(~choices, torch.inf).amin(1)
    widest_gap = max(float((masked.amax(1) - lowest).max()), MIN_GAP)
    while (bias := _fit(masked, target, penalty)).abs().max() > widest_gap:
        penalty *= 2
    return bias - bias.mean()


def _fit(masked: Tensor, target: Tensor, penalty: float) -> Tensor:
    bias = torch.zeros(masked.shape[1], requires_grad=True)
    # without a line search, steps diverge where logits lie far apart
    optimizer = torch.optim.LBFGS([bias], max_iter=200, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(masked + bias, target) + penalty * (bias**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(step)  # type: ignore[no-untyped-call]
    return bias.detach()
