"""Training of SAEs of the pretrained model: the text it writes, resuming, and SAEs that `extract` reads."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from lmms_steer import extract
from training.smol import sae as command
from training.smol.own_text import PROMPTS

pytestmark = pytest.mark.slow


@pytest.fixture
def small(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"SEQUENCES": 8, "LENGTH": 24, "LAYERS": (0, 1), "FEATURES": 32, "ACTIVE_FEATURES": 4, "BATCH": 32}
    # the other openers have more tokens of this tokenizer than a sequence
    for name, value in {**sizes, "OPENERS": PROMPTS[:2]}.items():
        monkeypatch.setattr(command, name, value)


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    monkeypatch.setattr("sys.argv", ["sae", "--out", str(folder), "--tokens", "500", "--epochs", "2", *more])
    command.main()


def test_stored_activations_are_those_of_one_forward_pass_over_the_text(
    small: None, small_backbone: Path, tmp_path: Path
) -> None:
    (file,) = command.write_text(tmp_path, 1, 0)
    stored = load_file(file)
    model: Any = AutoModelForCausalLM.from_pretrained(small_backbone, dtype=torch.float32)
    with torch.no_grad():
        states = model(input_ids=stored["ids"], output_hidden_states=True).hidden_states
    # entry 1 is layer 0's output; the last entry is normalised
    # bfloat16 rounds to 0.4%; a row of another token would be off by more than 100%
    error = (stored["layer_0"].float() - states[1][:, :-1]).norm(dim=-1) / states[1][:, :-1].norm(dim=-1)
    assert float(error.median()) < 0.02
    assert float(error.max()) < 0.2
    (batch,) = {tuple(batch.shape) for _, batch in zip(range(9), command.batches([file], 1, 0), strict=False)}
    assert batch == (32, 32)


def test_the_first_token_and_those_of_a_huge_norm_are_left_out() -> None:
    outputs = torch.ones(2, 6, 4)
    outputs[0, 3], outputs[1, 5] = 1000, 4
    expected = torch.tensor([[False, True, True, False, True, True], [False, True, True, True, True, True]])
    assert torch.equal(command.is_ordinary(outputs.bfloat16()), expected)


def test_sampled_tokens_have_the_frequencies_that_the_model_gives_them() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.0, -torch.inf, 1.0, 2.0, -torch.inf])
    found = command.sample(logits.expand(40_000, -1))
    assert found.shape == (40_000, 1)
    assert torch.bincount(found[:, 0], minlength=5) / 40_000 == pytest.approx(logits.softmax(-1), abs=0.01)


def test_a_stopped_training_ends_with_the_same_text_and_saes_which_extract_reads(
    small: None, small_backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "whole", monkeypatch)
    files = sorted(path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.safetensors"))
    assert len(files) == 3 + 2
    command.write_text(tmp_path / "stopped" / "text", 1, 0)
    run(tmp_path / "stopped", monkeypatch)
    for file in files:
        one, other = load_file(tmp_path / "whole" / file), load_file(tmp_path / "stopped" / file)
        assert all(torch.equal(one[name], other[name]) for name in one), file
    with pytest.raises(SystemExit, match=r"layer_0 is of a training with epochs 2 \(now 1\): delete it"):
        run(tmp_path / "whole", monkeypatch, "--epochs", "1")
    with pytest.raises(SystemExit, match=r"00000.safetensors is of a training with seed 0 \(now 1\): delete it"):
        command.write_text(tmp_path / "whole" / "text", 1, 1)
    vectors = extract(
        str(small_backbone), "spatial", method="sae", sae=str(tmp_path / "whole/sae"), store=tmp_path / "store"
    )
    assert set(vectors.layers) <= {0, 1}
