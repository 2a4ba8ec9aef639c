"""Answer biases that are fitted to a study's unsteered logits."""

import pytest
import torch

from lmms_steer.search.calibration import fit_answer_bias


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
