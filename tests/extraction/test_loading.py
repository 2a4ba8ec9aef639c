"""Backbones that cannot be loaded, or only in part, end with one line."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoProcessor

from lmms_steer import UserError
from lmms_steer.extraction.extract import Backbone
from lmms_steer.models.text import HfText
from lmms_steer.tiny_world.checkpoints import weights_dir


def copy(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(weights_dir(name), folder / "copied"))


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    file = tmp_path / "questions.jsonl"
    file.write_text('{"image": "red.png", "prompt": "what is it ?", "contrast": "how many ?"}\n')
    return file


@pytest.mark.parametrize("load", [Backbone, HfText])
def test_weights_that_are_cut_off_are_one_line(tmp_path: Path, load: Callable[[str], object]) -> None:
    folder = copy("tiny-gemma2", tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(UserError, match="cannot load the .*: a file of its weights is cut off or damaged"):
        load(str(folder))


def test_a_model_without_its_processor_is_one_line(tmp_path: Path, questions: Path) -> None:
    folder = copy("tiny-paligemma2", tmp_path)
    (folder / "processor_config.json").unlink()
    with pytest.raises(UserError, match="cannot load the checkpoint .*image processor"):
        Backbone(str(folder)).read_image_pairs(questions, "mine")


def test_images_are_read_by_the_processor_of_the_model_s_revision(
    questions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone("tiny-paligemma2")
    backbone.source["revision"] = "v2"
    load, asked = AutoProcessor.from_pretrained, []

    def record(name: str, **options: Any) -> Any:
        asked.append(options)
        return load(name)

    monkeypatch.setattr(AutoProcessor, "from_pretrained", record)
    backbone.read_image_pairs(questions, "mine")
    assert asked == [{"revision": "v2"}]
