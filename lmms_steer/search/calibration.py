"""A control for selection: a bias for each answer word, fitted on the same questions, that never touches the model.

Where steering gains no more than this does, it may have changed which answers the model likes, not what it sees.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_answer_bias(scores: Tensor, choices: Tensor, answers: Sequence[int], penalty: float = 1e-3) -> Tensor:
    """Biases that make the right answers most likely.

    Args:
        scores: the unsteered logits of each answer word, float [questions, words].
        choices: which words are choices of a question, bool [questions, words].
        answers: the right word of each question.
        penalty: on the squared biases.

    Returns:
        float [words], of mean zero.
    """
    masked = scores.float().masked_fill(~choices, -1e9)
    target = torch.tensor(answers)
    bias = torch.zeros(scores.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([bias], max_iter=200)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(masked + bias, target) + penalty * (bias**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(step)  # type: ignore[no-untyped-call]
    fitted = bias.detach()
    return fitted - fitted.mean()
