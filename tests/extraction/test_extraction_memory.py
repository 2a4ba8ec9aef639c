"""Extraction on a device with too little memory, and in a smaller dtype."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from lmms_steer import SteeringVectors, UserError, concepts
from lmms_steer._util.logging import print_notes
from lmms_steer.cli import app
from lmms_steer.extraction.extract import Backbone
from tests.helpers.memory import limited_to


def test_sentences_that_do_not_fit_are_read_in_smaller_batches(capfd: pytest.CaptureFixture[str]) -> None:
    backbone = Backbone("tiny-gemma2")
    expected = backbone.read(concepts.load("spatial"))
    print_notes()
    with limited_to(4):
        found = backbone.read(concepts.load("spatial"))
        notes = capfd.readouterr().err
        backbone.read(concepts.load("counting"))
        assert "out of memory" not in capfd.readouterr().err, "the size that fits is kept for the next concept"
    assert found.anchor_places == expected.anchor_places and found.control_places == expected.control_places
    assert np.abs(found.anchors - expected.anchors).max() < 1e-5
    assert "out of memory with 16 sentences at once, going on with 8" in notes
    with (
        limited_to(0),
        pytest.raises(UserError, match="out of memory with one sentence at a time: CUDA.* 1 rows;") as e,
    ):
        backbone.read(concepts.load("spatial"))
    assert "--dtype bfloat16" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.slow
def test_questions_about_images_that_do_not_fit_are_read_in_smaller_batches(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / "0.png")
    row = '{"image": "0.png", "prompt": "answer en where is it %d ?", "contrast": "answer en what colour %d ?"}\n'
    (tmp_path / "q.jsonl").write_text("".join(row % (i, i) for i in range(3)))
    backbone = Backbone("tiny-paligemma2")
    expected = backbone.read_image_pairs(tmp_path / "q.jsonl", "place")[1]
    with limited_to(1):
        found = backbone.read_image_pairs(tmp_path / "q.jsonl", "place")[1]
    assert np.abs(found.anchors - expected.anchors).max() < 1e-4
    with limited_to(0), pytest.raises(UserError, match="out of memory with one question at a time"):
        backbone.read_image_pairs(tmp_path / "q.jsonl", "place")


def test_a_backbone_that_does_not_fit_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(module: nn.Module, device: torch.device) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nmore")

    monkeypatch.setattr("transformers.PreTrainedModel.to", full)
    with pytest.raises(UserError, match="out of memory while loading 'tiny-gemma2' with dtype float32: CUDA.* 9 GiB.;"):
        Backbone("tiny-gemma2")


def test_the_dtype_is_the_users_and_a_misspelt_one_is_refused(tmp_path: Path) -> None:
    words = ("extract", "--backbone", "tiny-gemma2", "--concept", "spatial", "--store", str(tmp_path), "--dtype")
    done = CliRunner().invoke(app, [*words, "bfloat16"])
    assert done.exit_code == 0, done.output
    made = SteeringVectors.load(tmp_path / "tiny-gemma2/spatial/mean_shift.safetensors")
    assert made.provenance["dtype"] == "bfloat16"
    wrong = CliRunner().invoke(app, [*words, "bfloat17"])
    assert isinstance(wrong.exception, UserError)
    assert "unknown dtype 'bfloat17': did you mean 'bfloat16'?" in str(wrong.exception)
