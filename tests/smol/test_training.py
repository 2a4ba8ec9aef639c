"""Training of the adapter, on a backbone of two layers: exact packing, exact resuming, and a report."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.torch_version import TorchVersion

from lmms_steer.smol import mllm
from lmms_steer.smol.questions import is_held_out
from lmms_steer.tiny_world.scenes import sample_scene
from lmms_steer.vectors.backbones import checkpoint
from training.smol import __main__ as command
from training.smol import trainer as trainers
from training.smol.lessons import IGNORED, Batch, lesson
from training.smol.own_text import TARGET, next_weight, own_text
from training.smol.student import Student
from training.smol.trainer import PLAN, Plan, Trainer
from training.vision import image_bank

SMALL = Plan(1, 1, 2, (("plain", 12), ("grainy", 4)), batch=2, texts=2, text_rows=1, questions=2, check=100)


@pytest.fixture
def student(small_backbone: Path) -> Student:
    torch.manual_seed(0)
    student = Student(small_backbone, torch.float32)
    for parameter in student.parameters:
        torch.nn.init.normal_(parameter, std=0.05)
    return student


def losses(student: Student, batch: Batch, features: torch.Tensor) -> list[float]:
    with torch.no_grad():
        scores = student.logits(student.hidden(batch, features))
    wanted = batch.targets != IGNORED
    return list(F.cross_entropy(scores[wanted], batch.targets[wanted], reduction="none").tolist())


def test_a_packed_sequence_gives_the_losses_of_single_questions_by_the_whole_model(student: Student) -> None:
    scenes, images = image_bank(3, 2, 2)
    rng = random.Random(0)
    lessons = [lesson(scene, rng, 3, 0.5) for scene in scenes]
    features = student.see(images)
    packed = losses(student, student.packer.pack(lessons), features)
    single = []
    for number, turns in enumerate(lessons):
        for turn in turns:
            # the processor's own prompt, and the whole multimodal model
            message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": turn.text}]}]
            prompt = student.processor.apply_chat_template(message, add_generation_prompt=True)
            inputs: Any = student.processor(text=[prompt], images=[[images[number]]], return_tensors="pt")
            length = inputs["input_ids"].shape[1]
            tokenizer = student.processor.tokenizer
            answer = tokenizer(turn.answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
            for name, value in (("input_ids", torch.tensor([answer])), ("attention_mask", torch.ones(1, len(answer)))):
                inputs[name] = torch.cat([inputs[name], value.to(inputs[name].dtype)], 1)
            with torch.no_grad():
                scores = student.model(**inputs).logits[0, length - 1 : -1]
            single += F.cross_entropy(scores, torch.tensor(answer), reduction="none").tolist()
    assert packed == pytest.approx(single, abs=1e-4)


def test_a_stopped_training_ends_like_an_uninterrupted_one(small_backbone: Path, tmp_path: Path) -> None:
    def run(folder: Path, *stops: int) -> dict[str, torch.Tensor]:
        folder.mkdir()
        for stop in stops:
            student = Student(small_backbone, torch.float32)
            texts = own_text(student, folder / "own_text.safetensors", 0, SMALL.texts)
            trainer = Trainer(student, texts, SMALL, 0, folder)
            assert trainer.run(lambda trainer=trainer, stop=stop: trainer.step >= stop) == (stop == 4)  # type: ignore[misc]
        return load_file(folder / "state.safetensors")

    whole, resumed = run(tmp_path / "whole", 4), run(tmp_path / "resumed", 1, 3, 4)
    assert whole.keys() == resumed.keys() and "0000.exp_avg" in whole
    # torch 2.9 rounds the last bits by where a tensor lies in memory
    allowed = 0.0 if torch.__version__ >= TorchVersion("2.15") else 1e-2
    for name, value in whole.items():
        assert float((value - resumed[name]).abs().max()) <= allowed * float(value.abs().max()), name


def test_a_state_or_a_text_of_another_training_is_refused(student: Student, tmp_path: Path) -> None:
    text = tmp_path / "own_text.safetensors"
    texts = own_text(student, text, 0, 2)
    Trainer(student, texts, SMALL, 0, tmp_path, "hash")._save()
    Trainer(student, texts, SMALL, 0, tmp_path, "hash")
    more = replace(SMALL, letters=3)
    for plan, seed, start, found in (
        (SMALL, 1, "hash", r"seed 0 \(now 1\)"),
        (more, 0, "hash", r"letters 2 \(now 3\)"),
        (SMALL, 0, None, r"start hash \(now None\)"),
    ):
        message = f"state.safetensors is of a training with {found}: delete it, or choose another --out"
        with pytest.raises(SystemExit, match=message):
            Trainer(student, texts, plan, seed, tmp_path, start)
    for seed, sequences, found in ((1, 2, r"seed 0 \(now 1\)"), (0, 4, r"sequences 2 \(now 4\)")):
        with pytest.raises(SystemExit, match=f"own_text.safetensors is of a training with {found}"):
            own_text(student, text, seed, sequences)
    save_file(load_file(text), text)
    with pytest.raises(SystemExit, match="own_text.safetensors does not record the options"):
        own_text(student, text, 0, 2)


def test_the_connector_starts_at_the_words_of_each_cell(student: Student) -> None:
    scenes, images = image_bank(4, 200, 2)
    explained = student.solve_connector(student.see(images), scenes)
    assert explained > 0.5
    red = [(i, thing.cell) for i, scene in enumerate(scenes) for thing in scene if thing.colour == "red"]
    blue = [(i, thing.cell) for i, scene in enumerate(scenes) for thing in scene if thing.colour == "blue"]
    with torch.no_grad():
        seen = student.connector(student.see(images))
    direction = student._word("red") - student._word("blue")
    means = [torch.stack([seen[i, cell] for i, cell in cells]).mean(0) @ direction for cells in (red, blue)]
    assert means[0] > means[1] + 0.3 * direction @ direction


def test_the_text_term_is_zero_for_the_unmodified_model_and_follows_its_target(
    small_backbone: Path, student: Student, tmp_path: Path
) -> None:
    unmodified = Student(small_backbone, torch.float32)
    texts = own_text(unmodified, tmp_path / "text.safetensors", 0, 4)
    rows = torch.arange(4)
    with torch.no_grad():
        assert texts.divergence(unmodified, rows).abs() < 1e-5
        assert texts.divergence(student, rows) > 1e-3
    assert next_weight(1.0, 2 * TARGET) > next_weight(1.0, TARGET) == 1.0 > next_weight(1.0, 0.0)


def test_no_training_scene_is_held_out(student: Student, tmp_path: Path) -> None:
    texts = own_text(student, tmp_path / "text.safetensors", 0, 2)
    trainer = Trainer(student, texts, SMALL, 0, tmp_path)
    assert len(trainer.scenes) == 16 and not any(map(is_held_out, trainer.scenes))
    rng = random.Random(0)
    share = sum(is_held_out(sample_scene(rng)) for _ in range(2000)) / 2000
    assert 0.09 < share < 0.16
    assert "moss" not in dict(PLAN.pictures)


@pytest.mark.slow
def test_the_command_ends_with_a_report_and_an_adapter_that_the_package_takes(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainers, "WARM_UP", 1)
    monkeypatch.setattr("sys.argv", ["smol", "--quick", "--out", str(tmp_path / "out")])
    threads = torch.get_num_threads()
    command.main()
    torch.set_num_threads(threads)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["step"] == 3 and set(report["accuracy"]) == {"plain", "grainy", "coarse", "moss"}
    assert report["accuracy"]["moss"]["caption"].keys() == {"letter"}
    assert report["perplexity"]["ratio"] == pytest.approx(1, abs=0.5)
    assert "| relation |" in (tmp_path / "out" / "report.md").read_text()
    adapter = tmp_path / "out" / "adapter"
    assert (adapter / "adapter_model.safetensors").stat().st_size < 12e6
    assert "Apache-2.0" in (adapter / "README.md").read_text()
    monkeypatch.setattr(mllm, "shipped_adapter", lambda: adapter)
    assert Path(checkpoint("smol-idefics3")).is_dir()
