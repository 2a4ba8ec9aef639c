"""The report on the SAEs of the pretrained model: their quality, the words of their features, the judge's question."""

from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lmms_steer import concepts
from lmms_steer.extraction import sae_check, sae_contexts
from lmms_steer.extraction.extract import Backbone
from lmms_steer.extraction.methods.sae import sae
from lmms_steer.extraction.sae_judge import JudgeQuestion
from lmms_steer.extraction.sae_source import Sae, SaeSource
from lmms_steer.extraction.sae_verdicts import Verdict
from training.smol import sae_report


class PlusMinus:
    """An SAE that rebuilds its input exactly, scaled: a feature for each axis and one for its negative."""

    def __init__(self, width: int, scale: float) -> None:
        self.scale, self.rows = scale, torch.cat([torch.eye(width), -torch.eye(width)])
        self.cfg = SimpleNamespace(d_sae=2 * width)

    def encode(self, rows: Tensor) -> Tensor:
        return (rows @ self.rows.T).relu()

    def decode(self, features: Tensor) -> Tensor:
        return self.scale * features @ self.rows


@pytest.fixture(scope="module")
def backbone(small_backbone: Path) -> Backbone:
    return Backbone(str(small_backbone))


@pytest.mark.parametrize("scale", [1.0, 0.0, 0.5])
def test_quality_of_an_sae_that_scales_its_input(backbone: Backbone, scale: float) -> None:
    ids = torch.randint(3, 200, (5, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        states: Any = backbone.model(input_ids=ids, output_hidden_states=True)
    reader = Sae(0, "plus-minus", None, PlusMinus(32, scale))
    alive, hooks = torch.arange(64) < 48, len(backbone.model.model.layers[0]._forward_hooks)
    found = sae_report.quality(backbone.model, reader, ids, states.hidden_states[1][:, :-1], alive)

    rows = states.hidden_states[1][:, 1:-1].flatten(0, 1).double()
    unexplained = (1 - scale) ** 2 * rows.square().sum() / (rows - rows.mean(0)).square().sum()
    assert found.explained == pytest.approx(1 - float(unexplained), abs=1e-4)
    assert (found.active, found.dead) == (32, 0.25)
    losses = [
        -states.logits[row, place].log_softmax(-1)[ids[row, place + 1]] for row in range(5) for place in range(1, 11)
    ]
    assert found.loss == pytest.approx(float(torch.stack(losses).mean()), rel=1e-4)
    expected = {1.0: found.loss, 0.0: found.loss_zero}
    assert found.loss_sae == pytest.approx(expected.get(scale, found.loss_sae), rel=1e-4)
    assert found.recovered == pytest.approx({1.0: 1.0, 0.0: 0.0}.get(scale, found.recovered), abs=1e-3)
    assert len(backbone.model.model.layers[0]._forward_hooks) == hooks


def test_a_features_words_are_those_at_which_it_is_strongest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sae_report, "STRONGEST", 3)
    # the first token of a sequence is left out, and the last has no output
    ids = torch.tensor([[9, 1, 2, 1, 3, 9], [9, 4, 4, 5, 1, 9]])
    outputs = torch.zeros(2, 5, 2)
    outputs[:, 0] = 100
    outputs[0, [1, 3], 0] = torch.tensor([5.0, 4.0])
    outputs[1, [1, 2, 3], 0] = torch.tensor([3.0, 2.0, 1.0])
    outputs[1, 4, 1] = -1
    parts = [tmp_path / "0.safetensors", tmp_path / "1.safetensors"]
    for row, part in enumerate(parts):
        save_file({"ids": ids[row : row + 1], "layer_7": outputs[row : row + 1].bfloat16()}, part)
    reader = Sae(7, "plus-minus", None, PlusMinus(2, 1.0))
    tokenizer = SimpleNamespace(decode=lambda tokens: f" W{tokens[0]}")
    alive, words = sae_report.read_text(reader, parts, [0, 1, 3], tokenizer)
    assert alive.tolist() == [True, False, False, True]
    assert words == {0: ["w1", "w4"], 1: [], 3: ["w1"]}


@pytest.mark.slow
def test_the_question_is_the_one_that_the_method_asks_a_judge(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, str] = {}

    def judge(question: JudgeQuestion) -> Verdict:
        asked[question.feature] = question.text()
        return Verdict(None, "not asked", "none")

    save_sae(tmp_path / "sae" / "layer_1")
    monkeypatch.setattr(sae_check, "get_judge", lambda _name: judge)
    monkeypatch.setattr(sae_contexts, "_PAIRS_PER_CONCEPT", 1)
    job = sae_report.job_of(backbone, concepts.load("spatial"), tmp_path / "sae")
    activations = job.read(job.concept)
    listed = sae(activations, job).settings["layers"]["1"]["features"]
    feature = listed[0]["feature"]
    options = Namespace(folder=tmp_path, question=f"spatial:1:{feature}", concepts="")
    (question,) = sae_report.report_lines(backbone, options)
    assert question == asked[f"layer 1, feature {feature}"]
    assert "<<" in question
    found = sae_report.candidates(activations, SaeSource(job).load(1))
    assert [(c.feature, c.count) for c in found] == [(row["feature"], row["count"]) for row in listed]


def save_sae(folder: Path) -> None:
    """An SAE of random weights for the small backbone's layer 1."""
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig
    from sae_lens.saes.sae import SAEMetadata

    torch.manual_seed(0)
    metadata = SAEMetadata(model_name="smollm2-135m", hook_name="blocks.1.hook_resid_post")
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=32, d_sae=64, metadata=metadata))
    torch.nn.init.normal_(sae.W_enc)
    torch.nn.init.normal_(sae.W_dec)
    sae.save_model(folder)
