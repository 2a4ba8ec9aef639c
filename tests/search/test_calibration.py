"""Answer biases that are fitted to a study's unsteered logits."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lmms_steer.search.calibration import calibrate, fit_answer_bias


def test_the_answer_bias_undoes_a_preference_for_one_answer() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (600,), generator=generator)
    scores = torch.nn.functional.one_hot(truth, 3).float() + 0.5 * torch.randn(600, 3, generator=generator)
    skewed = scores + torch.tensor([2.0, 0.0, 0.0])
    bias = fit_answer_bias(skewed, torch.ones(600, 3, dtype=torch.bool), truth.tolist())
    assert bias.sum().abs() < 1e-5 and bias[0] - bias[1] == pytest.approx(-2.0, abs=0.3)
    right = [(s.argmax(1) == truth).float().mean() for s in (skewed, skewed + bias, scores)]
    assert right[1] > right[0] + 0.1 and right[1] == pytest.approx(float(right[2]), abs=0.03)


@pytest.mark.parametrize("distance", [0.1, 10.0, 100.0])
def test_answer_biases_are_no_larger_than_the_gap_between_the_logits(distance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.arange(64) % 2
    # the second answer is almost never the likeliest, and slightly likelier where it is correct
    scores = distance * (torch.tensor([1.0, 0.0]) + 0.1 * torch.randn(64, 2, generator=generator))
    scores[torch.arange(64), truth] += 0.3 * distance
    possible = torch.ones(64, 2, dtype=torch.bool)
    for right in (truth, torch.ones(64)):
        bias = fit_answer_bias(scores, possible, right.long().tolist())
        gap = float((scores[:, 0] - scores[:, 1]).max())
        assert bias.sum().abs() < 1e-4 and 0 < bias[1] <= gap * 1.001
        hits = ((scores + bias).argmax(1) == right).float().mean()
        assert hits >= 0.85, "the preference is undone"


@pytest.mark.parametrize("broken", [float("inf"), float("-inf"), float("nan")])
def test_a_question_on_which_the_model_overflows_is_wrong_and_decides_nothing(broken: float) -> None:
    generator = torch.Generator().manual_seed(0)
    questions: list[Any] = [SimpleNamespace(answers=("yes", "no"), right=n % 2) for n in range(40)]
    logits = {n: (torch.randn(2, generator=generator) + torch.tensor([1.0, 0.0])).tolist() for n in range(40)}
    whole = calibrate(questions[:39], {n: logits[n] for n in range(39)}, hash)
    found = calibrate(questions, {**logits, 39: [0.0, broken]}, hash)
    assert whole is not None and found is not None and found.biases == whole.biases
    assert found.base.tolist() == [*whole.base, 0] and found.scores.tolist() == [*whole.scores, 0]
    assert calibrate(questions, {n: [broken, broken] for n in range(40)}, hash) is None
