"""The replay equals the hooks, and the choice is the best cell."""

from typing import Any

import pytest
import torch
from conftest import batch_of, vectors

from lmms_steer import steer
from lmms_steer.search.calibration import fit_answer_bias
from lmms_steer.search.grid import Cell, best
from lmms_steer.search.replay import Replay

TEXTS = ("where is the cat ?", "how many cups are on the table ?")


@pytest.mark.parametrize("tokens", ["image", "text", "both"])
def test_a_replayed_cell_equals_the_hooks(vlm: Any, tokens: str) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *TEXTS)
    v = vectors()
    replay = Replay(model, batch)
    for layer in range(4):
        with steer(model, f"vector=v,layer={layer},alpha=0.7,tokens={tokens}", {"v": v}), torch.no_grad():
            expected = model(**batch).logits[:, -1]
        replayed = replay.steer(layer, torch.from_numpy(v[layer]) * 0.7, tokens)
        assert (replayed - expected).abs().max() < 1e-5
    assert not any(layer._forward_hooks for layer in model.get_decoder().layers)


def test_ties_go_to_the_smaller_alpha() -> None:
    cells = [
        Cell(0, 1.0, "image", 0.8),
        Cell(3, 0.5, "both", 0.8),
        Cell(1, 0.5, "both", 0.8),
        Cell(0, 0.1, "text", 0.7),
    ]
    assert best(cells) == Cell(1, 0.5, "both", 0.8)


def test_the_answer_bias_undoes_a_preference_for_one_answer() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 3, (600,), generator=generator)
    scores = torch.nn.functional.one_hot(truth, 3).float() + 0.5 * torch.randn(600, 3, generator=generator)
    skewed = scores + torch.tensor([2.0, 0.0, 0.0])
    bias = fit_answer_bias(skewed, torch.ones(600, 3, dtype=torch.bool), truth.tolist())
    assert bias.sum().abs() < 1e-5 and bias[0] - bias[1] == pytest.approx(-2.0, abs=0.3)
    right = [(s.argmax(1) == truth).float().mean() for s in (skewed, skewed + bias, scores)]
    assert right[1] > right[0] + 0.1 and right[1] == pytest.approx(float(right[2]), abs=0.03)
