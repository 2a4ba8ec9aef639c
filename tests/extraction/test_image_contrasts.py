"""Vectors from questions with and without their images, and their control with images of other questions."""

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from lmms_steer import SteeringVectors, UserError, concepts, extract
from lmms_steer.data import question_files
from lmms_steer.data.question_files import write_questions
from lmms_steer.extraction.image_contrasts import contrast_image, other_places
from lmms_steer.extraction.image_pairs import read_image_pair_activations, read_image_pairs
from lmms_steer.extraction.job import ExtractionSettings
from lmms_steer.harness.tasks import load_task
from lmms_steer.models.batches import ShrinkingRunner
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.resolve import resolve
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.backbones import checkpoint
from tests.helpers.checkpoints import build
from tests.helpers.models import record

GREY = (128, 128, 128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five questions of a task, two of them about one image."""
    folder = tmp_path_factory.mktemp("questions")
    assert "4 questions" in next(write_questions("tiny_spatial_select", folder, 4))
    with (folder / "questions.jsonl").open("a") as file:
        file.write((folder / "questions.jsonl").read_text().splitlines()[0] + "\n")
    return folder


def states(lines: list[tuple[str, Image.Image]], tokens: str) -> np.ndarray[Any, Any]:
    """Each layer's output by plain calls of transformers, one question at a time: the mean over its tokens."""
    name = checkpoint("tiny-paligemma2")
    model: Any = AutoModelForImageTextToText.from_pretrained(name, dtype=torch.float32)
    processor: Any = AutoProcessor.from_pretrained(name)
    rows = []
    for text, image in lines:
        inputs = processor(text=f"<image>{text}", images=image, return_tensors="pt")
        found = record(model, partial(model, **inputs))
        is_image = inputs["input_ids"][0] == model.config.image_token_id
        chosen = {"image": is_image, "text": ~is_image, "last": torch.arange(len(is_image)) == len(is_image) - 1}[
            tokens
        ]
        rows.append(torch.stack([layer[0, chosen].mean(0) for layer in found]).numpy())
    return np.stack(rows)


def lines_of(folder: Path) -> list[tuple[str, Image.Image]]:
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    return [(row["prompt"], Image.open(folder / row["image"]).convert("RGB")) for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("at", ["last", "image", "text"])
def test_a_blank_contrast_is_the_mean_difference_of_plain_forward_calls(
    folder: Path, tmp_path: Path, at: str, own_cache: Path
) -> None:
    lines = lines_of(folder)
    blank = [(text, Image.new("RGB", image.size, GREY)) for text, image in lines]
    expected = (states(lines, at) - states(blank, at)).mean(0)
    vectors = extract(
        "tiny-paligemma2", "sight", questions=folder / "questions.jsonl", image_contrast="blank", at=at, store=tmp_path,
        batch_size=2,
    )  # fmt: skip
    for layer in vectors:
        assert vectors[layer] == pytest.approx(expected[layer], abs=2e-4)
    assert vectors.provenance["settings"]["image_contrast"] == "blank" and vectors.provenance["settings"]["at"] == at
    # the control is made beside it, with the same norms
    control = SteeringVectors.load(tmp_path / "tiny-paligemma2/sight/mean_shift-shuffled_images.safetensors")
    for layer in vectors:
        assert np.linalg.norm(control[layer]) == pytest.approx(np.linalg.norm(vectors[layer]), rel=1e-4)
    places = other_places([image.tobytes().hex() for _, image in lines], 0)
    assert places is not None
    shuffled = [(text, lines[place][1]) for (text, _), place in zip(lines, places, strict=True)]
    assert all(one[1].tobytes() != other[1].tobytes() for one, other in zip(lines, shuffled, strict=True))


def test_each_contrast_shows_what_it_says(folder: Path) -> None:
    image = lines_of(folder)[0][1]
    assert contrast_image("absent", image, np.random.default_rng(0)) == []
    (blank,) = contrast_image("blank", image, np.random.default_rng(0))
    assert isinstance(blank, Image.Image) and blank.size == image.size and set(blank.get_flattened_data()) == {GREY}
    pixels = np.asarray(image).astype(int)
    (masked,) = contrast_image("masked", image, np.random.default_rng(0))
    mean = pixels.reshape(-1, 3).mean(0).round()
    is_mean = (np.asarray(masked) == mean).all(-1)
    assert 0.97 < is_mean.mean() < 1 and (np.asarray(masked)[~is_mean] == pixels[~is_mean]).all()
    (blurred,) = contrast_image("blurred", image, np.random.default_rng(0))
    assert np.asarray(blurred).std() < 0.9 * pixels.std()


def test_other_images_are_never_the_questions_own() -> None:
    for seed in range(20):
        images = ["a", "a", "b", "c", "c", "d"]
        places = other_places(images, seed)
        assert places is not None and sorted(places) == list(range(6))
        assert all(images[place] != image for place, image in zip(places, images, strict=True))
    places = other_places(["a", "a", "a", "b"], 0)
    assert places is not None and all("aaab"[p] != i for p, i in zip(places, "aaab", strict=True))
    assert other_places(["a", "a"], 0) is None
    assert other_places(["b", "a", "c"], 0) == [2, 0, 1]  # by the images' hashes, as published results are


def test_each_seed_shows_other_images() -> None:
    images = [f"{number:02}" for number in range(20)]
    shown = {tuple(other_places(images, seed) or ()) for seed in range(19)}
    # every question sees each of the 19 others under one of the seeds
    assert len(shown) == 19 and all(len(set(column)) == 19 for column in zip(*shown, strict=True))


def test_mistakes_are_one_line_before_a_model_is_loaded(folder: Path, tmp_path: Path) -> None:
    def refused(match: str, file: Path = folder / "questions.jsonl", **options: Any) -> None:
        with pytest.raises(UserError, match=match):
            extract("tiny-paligemma2", "sight", questions=file, store=tmp_path, **options)

    refused("unknown image contrast 'blnk': did you mean 'blank'", image_contrast="blnk")
    refused("--at image: a prompt without an image", image_contrast="absent", at="image")
    refused("unknown --at 'imge': did you mean 'image'", at="imge")
    refused("unknown vector 'tiny-gemma2/spatail'", orthogonal_to="tiny-gemma2/spatail")
    refused("expected image, prompt and contrast in JSON")
    (tmp_path / "a.png").write_bytes((folder / json.loads(_first(folder))["image"]).read_bytes())
    one = tmp_path / "one.jsonl"
    one.write_text('{"image": "a.png", "prompt": "x"}\n{"image": "a.png", "prompt": "y"}\n')
    refused("has one image only", one, image_contrast="blank")
    one.write_text('{"image": "a.png", "prompt": "x", "contrast": "y"}\n')
    refused("line 1: the line has a contrasting question", one, image_contrast="blank")
    refused("mean_shift-shuffled_images: only an image contrast", method="mean_shift-shuffled_images")
    refused("vision tower sees images only", image_contrast="other", at="patches")
    refused(
        "shuffled_images would be the vector itself", image_contrast="blank", at="patches", method="shuffled_images"
    )
    with pytest.raises(UserError, match="--concept a sight cannot name the vectors"):
        extract("tiny-paligemma2", "a sight", questions=folder / "questions.jsonl", image_contrast="blank")
    with pytest.raises(UserError, match="--image_contrast and --at are for questions about images"):
        extract("tiny-gemma2", "spatial", image_contrast="blank", store=tmp_path)
    with pytest.raises(UserError, match="only an image contrast has this control"):
        extract("tiny-gemma2", "spatial", "mean_shift-shuffled_images", store=tmp_path)


def _first(folder: Path) -> str:
    return (folder / "questions.jsonl").read_text().splitlines()[0]


def test_the_component_along_another_vector_is_removed(tmp_path: Path) -> None:
    plain = extract("tiny-gemma2", "spatial", store=tmp_path)
    other = extract("tiny-gemma2", "counting", store=tmp_path)
    file = tmp_path / "tiny-gemma2/counting/mean_shift.safetensors"
    made = extract("tiny-gemma2", "spatial", store=tmp_path / "made", orthogonal_to=str(file))
    random = extract("tiny-gemma2", "spatial", "random", store=tmp_path / "made", orthogonal_to=str(file))
    for layer in made:
        assert np.linalg.norm(random[layer]) == pytest.approx(np.linalg.norm(made[layer]), rel=1e-5)
    for layer in plain:
        unit = other[layer] / np.linalg.norm(other[layer])
        assert abs(made[layer] @ unit) < 1e-4 * np.linalg.norm(plain[layer])
        assert made[layer] == pytest.approx(plain[layer] - (plain[layer] @ unit) * unit, abs=1e-4)
    assert made.provenance["settings"]["orthogonal_to_sha256"] == other.sha256


def test_removing_the_component_of_another_models_vector_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counting = extract("tiny-gemma2", "counting", store=tmp_path)
    foreign = {**counting.provenance, "model_id": "other", "weights_sha256": "0" * 64}
    for provenance, warned in ((counting.provenance, False), (foreign, True)):
        file = SteeringVectors(counting.directions, provenance).save(tmp_path / f"{warned}.safetensors")
        caplog.clear()
        extract("tiny-gemma2", "spatial", store=tmp_path / str(warned), orthogonal_to=str(file))
        assert ("whose component is removed, is of another model: " in caplog.text) is warned


def test_of_a_parallel_direction_nothing_is_left_to_steer_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = extract("tiny-gemma2", "spatial", store=tmp_path)
    other = extract("tiny-gemma2", "counting", store=tmp_path)
    itself = str(next(tmp_path.glob("*/spatial/*")))
    with pytest.raises(
        UserError, match="spatial/mean_shift.safetensors: nothing is left of .* itself: leave spatial out"
    ):
        extract("tiny-gemma2", ["spatial", "counting"], store=tmp_path / "a", orthogonal_to=itself)
    assert not (tmp_path / "a").exists()
    two = tuple(concepts.load(name) for name in ("spatial", "counting"))
    monkeypatch.setattr(concepts, "shipped", lambda: two)
    every = extract("tiny-gemma2", "all", store=tmp_path / "every", orthogonal_to=itself)
    assert not isinstance(every, SteeringVectors) and list(every) == ["tiny-gemma2/counting/mean_shift"]
    parallel = SteeringVectors({layer: -3 * plain[layer] for layer in plain}, other.provenance).save(
        tmp_path / "p.safetensors"
    )
    with pytest.raises(UserError, match="norm 0 at every layer: is it parallel to .*p.safetensors, whose component"):
        extract("tiny-gemma2", "spatial", store=tmp_path / "a", orthogonal_to=str(parallel))
    mixed = SteeringVectors({**other.directions, 2: -3 * plain[2]}, other.provenance)
    made = extract(
        "tiny-gemma2", "spatial", store=tmp_path / "b", orthogonal_to=str(mixed.save(tmp_path / "m.safetensors"))
    )
    assert [layer for layer in made if not made.can_steer(layer)] == [2]


def test_a_probe_without_a_component_has_no_numbers_for_a_gate(tmp_path: Path) -> None:
    made = extract("tiny-gemma2", "spatial", "linear_probe", store=tmp_path, orthogonal_to="tiny-gemma2/counting")
    whole = extract("tiny-gemma2", "spatial", "linear_probe", store=tmp_path / "whole")
    gone = {"weight_norm", "bias", "held_out_accuracy", "held_out_balanced_accuracy"}
    assert gone & made.provenance["settings"].keys() == set() and gone <= whole.provenance["settings"].keys()
    facts = ModelFacts("tiny-paligemma2", 5, 96)
    spec = SteeringSpec.parse("vector=v,layer=2,alpha=1,tokens=both,gate=probe,gate_vector=c")
    assert resolve(spec, facts, {"v": whole, "c": whole}).gates
    with pytest.raises(UserError, match="has no probe's weight norm and bias .* made with --orthogonal_to, lack them"):
        resolve(spec, facts, {"v": whole, "c": made})


def test_the_contrasts_images_are_part_of_the_hash(folder: Path) -> None:
    hashes = set()
    for kind in ("blank", "absent", "masked", "blurred", "other"):
        pairs = read_image_pairs(folder / "questions.jsonl", ExtractionSettings(image_contrast=kind))
        hashes.add(pairs.concept("sight").sentences_sha256)
        assert len(pairs.pairs) == len(pairs.shuffled) == 5
    assert len(hashes) == 5


@pytest.mark.parametrize(("task", "limit"), [("tiny_spatial_select", 2)])
def test_test_questions_are_written_with_a_warning(
    task: str, limit: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    list(write_questions(task, tmp_path, limit))
    assert not caplog.records
    list(write_questions("tiny_spatial", tmp_path, limit))
    assert "take tiny_spatial_select" in caplog.text


def test_test_questions_are_recognised_by_their_task_s_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task, manager = load_task("tiny_spatial_select", "steered_hf", None)
    monkeypatch.setattr(question_files, "load_task", lambda *_: (task, manager))
    for name, advice in (("cvbench_relation_test", "take cvbench_relation_select"), ("other_test", "cannot be tested")):
        list(write_questions(name, tmp_path / name, 1))
        assert advice in caplog.records[-1].getMessage()


def test_prompts_are_those_of_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, manager = load_task("tiny_spatial_select", "steered_hf", None)
    monkeypatch.setattr(task.config, "description", "Answer with one word. ")
    monkeypatch.setattr(question_files, "load_task", lambda *_: (task, manager))
    list(write_questions("tiny_spatial_select", tmp_path, 1))
    asked = json.loads((tmp_path / "questions.jsonl").read_text())["prompt"]
    assert asked == "Answer with one word. " + task.doc_to_text(task.eval_docs[0])


def test_a_picture_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    list(write_questions("tiny_spatial_select", tmp_path, 2))
    pictures = {path: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    cut = next(iter(pictures))
    cut.write_bytes(pictures[cut][:40])
    list(write_questions("tiny_spatial_select", tmp_path, 2))
    assert {path: path.read_bytes() for path in (tmp_path / "images").iterdir()} == pictures


def test_questions_with_a_byte_order_mark_are_read(folder: Path) -> None:
    file = folder / "marked.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + (folder / "questions.jsonl").read_bytes())
    assert len(read_image_pairs(file, ExtractionSettings(image_contrast="blank")).pairs) == 5


def test_there_is_no_control_where_other_images_change_nothing(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()[:4]]
    alike = folder / "alike.jsonl"
    alike.write_text("\n".join(json.dumps({**row, "prompt": "where is it ?"}) for row in rows))
    ask = partial(extract, "tiny-paligemma2", "sight", questions=alike, store=tmp_path)
    ask(image_contrast="blank")
    assert [path.stem for path in tmp_path.glob("*/sight/*.safetensors")] == ["mean_shift"]
    assert "left out: mean_shift-shuffled_images would be the vector itself" in caplog.text
    with pytest.raises(UserError, match="mean_shift-shuffled_images would be the vector itself"):
        ask(method="mean_shift-shuffled_images", image_contrast="blank")
    with pytest.raises(UserError, match="--image_contrast other contrasts nothing"):
        ask(image_contrast="other")


@pytest.mark.parametrize(("name", "has_control"), [("llava", False), ("paligemma2", True)])
def test_image_tokens_of_a_causal_model_have_no_control_with_other_images(
    folder: Path, tmp_path: Path, name: str, has_control: bool
) -> None:
    model, processor = build(name)
    model.save_pretrained(tmp_path / "m")
    processor.save_pretrained(tmp_path / "m")
    made = extract(
        str(tmp_path / "m"), "sight", ["mean_shift"], questions=folder / "questions.jsonl", image_contrast="blank",
        at="image", store=tmp_path / "v",
    )  # fmt: skip
    assert ("m/sight/mean_shift-shuffled_images" in made) is has_control
    if not has_control:
        with pytest.raises(UserError, match="image tokens do not depend on the question"):
            extract(
                str(tmp_path / "m"), "other", questions=folder / "questions.jsonl", image_contrast="other", at="image",
                store=tmp_path / "v",
            )  # fmt: skip


@pytest.mark.parametrize("name", ["llava", "paligemma2"])
def test_contrasting_prompts_are_refused_where_image_tokens_do_not_depend_on_them(
    folder: Path, tmp_path: Path, name: str
) -> None:
    model, processor = build(name)
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    file = folder / "contrasting.jsonl"
    # one prompt about all images: the contrast alone differs
    file.write_text("\n".join(json.dumps({**row, "prompt": "is it red ?", "contrast": "is it blue ?"}) for row in rows))
    settings = ExtractionSettings(at="image")
    runner = ShrinkingRunner("questions")
    expected: Any = nullcontext()
    if name == "llava":
        expected = pytest.raises(UserError, match="so that 'contrast' contrasts nothing: use another contrast, or --at")
    with expected:
        read_image_pair_activations(model, processor, read_image_pairs(file, settings), settings, 4, runner)


def test_a_question_without_its_image_has_no_placeholder_of_one(folder: Path, tmp_path: Path) -> None:
    model, processor = build("llava")
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    marked = folder / "marked_prompts.jsonl"
    marked.write_text("\n".join(json.dumps({**row, "prompt": f"<image>{row['prompt']}"}) for row in rows))
    settings = ExtractionSettings(image_contrast="absent")
    found, expected = (
        read_image_pair_activations(
            model, processor, read_image_pairs(file, settings), settings, 4, ShrinkingRunner("questions")
        )
        for file in (marked, folder / "questions.jsonl")
    )
    assert np.array_equal(found.controls, expected.controls) and np.array_equal(found.anchors, expected.anchors)


def test_a_processor_that_cannot_show_the_images_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the chat template of this checkpoint shows no images"):
        extract("tiny-qwen2-vl", "sight", questions=folder / "questions.jsonl", image_contrast="blank", store=tmp_path)


def test_what_was_read_and_drawn_is_in_the_provenance(folder: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    asked = folder / "contrasts.jsonl"
    asked.write_text("\n".join(json.dumps({**row, "contrast": "what colour ?"}) for row in rows))
    ask = partial(extract, "tiny-paligemma2", store=tmp_path, seed=3)
    settings = ask("asked", questions=asked, at="image").provenance["settings"]
    assert settings["at"] == "image" and "image_seed" not in settings
    settings = ask("sight", questions=folder / "questions.jsonl", image_contrast="masked").provenance["settings"]
    assert settings["at"] == "last" and settings["image_seed"] == 3
    assert "at" not in extract("tiny-gemma2", "spatial", store=tmp_path).provenance["settings"]
