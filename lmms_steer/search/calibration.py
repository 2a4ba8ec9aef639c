"""A control for selection: a bias for each answer word, fitted on the same questions, that never touches the model.

Where steering gains no more than this does, it may have changed which answers the model likes, not what it sees.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lmms_steer.search.questions import Question
from lmms_steer.search.selection import Floats

MANY = 64
"""Of more different answers than this none comes often enough to be liked."""
NARROWEST = 1e-3
"""Answers whose logits lie closer than this are as good as equal."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """
    Attributes:
        biases: word ▸ what is added to the logit of its first token; one word a token, as others share its bias.
        base, scores: whether the likeliest of a question's answers is right without and with them, float [questions].
    """

    biases: dict[str, float]
    base: Floats
    scores: Floats


def calibrate(
    asked: Sequence[Question], answers: Mapping[int, Sequence[float]], first_token: Callable[[str], int]
) -> Calibration | None:
    """Fit biases to the unsteered logits of a study's questions.

    Args:
        asked: the questions.
        answers: question ▸ the logits of its answers.
        first_token: the id of a word's first token, which is what a bias is on.

    Returns:
        None where answers are not of one small set of words.
    """
    words = sorted({word for question in asked for word in question.answers})
    if not words or len(words) > MANY or not all(answers[number] for number in range(len(asked))):
        return None
    tokens = {word: first_token(word) for word in words}
    # the first word of each token by name: those of one question have tokens of their own
    named = {token: word for word, token in reversed(tokens.items())}
    biased = sorted(named.values())
    place = {word: biased.index(named[token]) for word, token in tokens.items()}
    scores = torch.full((len(asked), len(biased)), -1e9)
    for number, question in enumerate(asked):
        scores[number, [place[word] for word in question.answers]] = torch.tensor(answers[number])
    possible, right = scores > -1e8, [place[question.answers[question.right]] for question in asked]
    bias = fit_answer_bias(scores, possible, right)
    base, hits = ((scores + b).masked_fill(~possible, -1e9).argmax(1) == torch.tensor(right) for b in (0 * bias, bias))
    return Calibration(dict(zip(biased, bias.tolist(), strict=True)), base.double().numpy(), hits.double().numpy())


def fit_answer_bias(scores: Tensor, choices: Tensor, answers: Sequence[int], penalty: float = 1e-3) -> Tensor:
    """Biases that make the right answers most likely.

    Args:
        scores: the unsteered logits of each answer word, float [questions, words].
        choices: which words are choices of a question, bool [questions, words].
        answers: the right word of each question.
        penalty: on the squared biases; more where a bias is larger than the widest gap between two choices of a
            question, which undoes any preference: beyond it a model is made to begin with words that it never says.

    Returns:
        float [words], of mean zero.
    """
    own = scores.float()
    masked, target = own.masked_fill(~choices, -1e9), torch.tensor(answers)
    lowest = own.masked_fill(~choices, torch.inf).amin(1)
    widest = max(float((masked.amax(1) - lowest).max()), NARROWEST)
    while (bias := _fitted(masked, target, penalty)).abs().max() > widest:
        penalty *= 2
    return bias - bias.mean()


def _fitted(masked: Tensor, target: Tensor, penalty: float) -> Tensor:
    bias = torch.zeros(masked.shape[1], requires_grad=True)
    # a step that is not searched for runs away where logits lie far apart
    optimizer = torch.optim.LBFGS([bias], max_iter=200, line_search_fn="strong_wolfe")

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(masked + bias, target) + penalty * (bias**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(step)  # type: ignore[no-untyped-call]
    return bias.detach()
