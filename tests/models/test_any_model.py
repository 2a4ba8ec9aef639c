"""`steered_hf` on a tiny checkpoint of each architecture: agreement with plain transformers, and unusual input."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageFile
from transformers import AutoModelForImageTextToText, AutoProcessor

from lmms_steer import UserError
from lmms_steer._util.io import cache_dir
from lmms_steer._util.logging import print_notes
from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.models import batches
from lmms_steer.models.visuals import prepare_visuals
from tests.helpers.models import picture, vectors

QUESTIONS = ("where is the cat ?", "how many cups are on the table ?")
SETTINGS = {"max_new_tokens": 4, "min_new_tokens": 4}


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {}


@pytest.fixture
def folder(vlm: Any, saved: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The architecture's checkpoint on disk."""
    name, model, processor = vlm
    if name not in saved:
        saved[name] = tmp_path_factory.mktemp("models") / name
        model.save_pretrained(saved[name])
        processor.save_pretrained(saved[name])
    return saved[name]


@pytest.fixture
def lm(folder: Path) -> SteeredVlm:
    return SteeredVlm(pretrained=str(folder), batch_size=2)


def plain_inputs(name: str, processor: Any, question: str, images: list[Image.Image]) -> Any:
    """Inputs as the model's own documentation makes them, without our code."""
    if name.startswith("paligemma"):
        batch = processor(text="<image>" * len(images) + question, images=images, return_tensors="pt")
        batch.pop("labels", None)
        return batch
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=text, images=images or None, return_tensors="pt")


def generated(lm: SteeredVlm, *questions: tuple[str, list[Any]]) -> list[str]:
    return [
        r.text
        for r in batches.run_grouped(list(questions), lambda a: len(a[1]), lambda part: lm._generate(part, SETTINGS))
    ]


@pytest.mark.slow
def test_the_unsteered_model_generates_the_same_tokens_as_plain_transformers(
    vlm: Any, folder: Path, lm: SteeredVlm
) -> None:
    name, _, _ = vlm
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    expected = []
    for i, question in enumerate(QUESTIONS):
        inputs = plain_inputs(name, processor, question, [picture(i)])
        out = model.generate(**inputs, **SETTINGS, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        expected.append(processor.tokenizer.decode(out, skip_special_tokens=True))
    assert generated(lm, *((q, [picture(i)]) for i, q in enumerate(QUESTIONS))) == expected


@pytest.mark.slow
def test_the_log_likelihood_of_an_answer_is_that_of_generating_it(vlm: Any, folder: Path, lm: SteeredVlm) -> None:
    name, _, _ = vlm
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    questions: list[tuple[str, list[Any], str]] = [
        (q, [picture(i)], a) for i, (q, a) in enumerate(zip(QUESTIONS, ("left of the dog", "three"), strict=True))
    ]
    scored = batches.run_grouped(questions, lambda a: len(a[1]), lm._score)
    for (question, images, answer), result in zip(questions, scored, strict=True):
        inputs = plain_inputs(name, processor, question, images)
        start = inputs["input_ids"].shape[1]
        words = processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
        # generation is forced along the answer: a scored token must see what a generated one sees
        out = model.generate(
            **inputs, max_new_tokens=len(words), min_new_tokens=len(words), do_sample=False, output_logits=True,
            return_dict_in_generate=True, prefix_allowed_tokens_fn=lambda _, ids, w=words, s=start: [w[len(ids) - s]],
        )  # fmt: skip
        scores = [step.log_softmax(-1)[0, word] for step, word in zip(out.logits, words, strict=True)]
        assert result.text[0] == pytest.approx(-float(torch.stack(scores).mean()), abs=1e-5)


@pytest.mark.slow
def test_a_batch_gives_the_answers_of_single_questions_with_any_number_of_images(vlm: Any, lm: SteeredVlm) -> None:
    name, _, _ = vlm
    questions = [(QUESTIONS[0], [picture(0)]), (QUESTIONS[1], [picture(1), picture(2)]), (QUESTIONS[1], [picture(1)])]
    if not name.startswith("paligemma"):
        questions.append((QUESTIONS[0], []))
    singles = [generated(lm, one)[0] for one in questions]
    assert generated(lm, *questions) == singles
    if name.startswith("paligemma"):
        with pytest.raises(UserError, match="needs an image with every question"):
            generated(lm, (QUESTIONS[0], []))


@pytest.mark.slow
def test_steering_by_arguments_changes_answers_and_alpha_0_attaches_no_hooks(folder: Path, lm: SteeredVlm) -> None:
    path = vectors(scale=5).save(folder.parent / "v.safetensors")
    questions = tuple((q, [picture(i)]) for i, q in enumerate(QUESTIONS))
    steered = SteeredVlm(pretrained=str(folder), vector=str(path), layer=1, alpha=2, tokens="both")
    zero = SteeredVlm(pretrained=str(folder), vector=str(path), layer=1, alpha=0, tokens="both")
    assert generated(zero, *questions) == generated(lm, *questions) != generated(steered, *questions)
    assert steered.attachment and not zero.attachment
    relative = SteeredVlm(pretrained=str(folder), vector=str(path), layer=1, alpha=2, tokens="image", scale="relative")
    norms = relative.resolved.norms
    assert norms is not None and norms[1]["image"] > 0
    again = SteeredVlm(pretrained=str(folder), vector=str(path), layer=1, alpha=2, tokens="image", scale="relative")
    assert again.resolved.norms == norms and again.resolved.sha256 == relative.resolved.sha256


@pytest.mark.slow
def test_norms_are_measured_again_for_other_weights_and_image_settings(tmp_path: Path) -> None:
    from tests.helpers.checkpoints import build

    model, processor = build("idefics3")
    spec = {"vector": str(vectors().save(tmp_path / "v.safetensors")), "layer": 1, "alpha": 1, "tokens": "image"}

    def norms(**settings: Any) -> Any:
        model.save_pretrained(tmp_path / "m")
        processor.save_pretrained(tmp_path / "m")
        return SteeredVlm(pretrained=str(tmp_path / "m"), scale="relative", **spec, **settings).resolved.norms

    first = norms()
    assert norms() == first and norms(do_image_splitting=False) != first != norms(size=96)
    with torch.no_grad():
        model.get_decoder().layers[0].mlp.down_proj.weight.mul_(50)
    assert norms()[0]["image"] > first[0]["image"]
    assert len(list((cache_dir() / "norms").iterdir())) == 4


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["CMYK", "P", "L", "RGBA", "1"])
def test_images_of_any_mode_and_size_are_accepted(vlm: Any, lm: SteeredVlm, mode: str) -> None:
    images = prepare_visuals([Image.new(mode, size) for size in ((1, 1), (300, 7))], "t")
    assert all(generated(lm, (QUESTIONS[0], [image])) for image in images)


def test_a_truncated_image_and_a_value_that_is_no_visual_are_refused_with_the_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # lmms-eval's tasks, which another test of this process may have imported, set it
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    Image.effect_noise((64, 64), 50).save(tmp_path / "x.png")
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:900])
    with pytest.raises(UserError, match="task t, document 3: the image cannot be read"):
        prepare_visuals([Image.open(tmp_path / "x.png")], "task t, document 3")
    with pytest.raises(UserError, match="t gives a set as visual"):
        prepare_visuals([{1}], "t")


def test_video_frames_reach_a_model_with_videos(checkpoints: dict[str, Any], tmp_path: Path) -> None:
    from tests.helpers.checkpoints import build

    model, processor = checkpoints.setdefault("qwen2_5_vl", build("qwen2_5_vl"))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    lm = SteeredVlm(pretrained=str(tmp_path))
    frames = [picture(i).resize((56, 56)) for i in range(4)]
    assert lm.model.config.video_token_id in lm.model_inputs([QUESTIONS[0]], [[frames]])["input_ids"]
    assert generated(lm, (QUESTIONS[0], [frames]))


def test_a_bfloat16_model_sees_the_frames_of_a_video_at_their_times(
    checkpoints: dict[str, Any], tmp_path: Path
) -> None:
    from tests.helpers.checkpoints import build

    model, processor = checkpoints.setdefault("qwen2_5_vl", build("qwen2_5_vl"))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    lm = SteeredVlm(pretrained=str(tmp_path), dtype="bfloat16", fps=1.3)
    frames = [picture(i).resize((28, 28)) for i in range(40)]
    inputs = lm.model_inputs([QUESTIONS[0]], [[frames]])
    assert inputs["pixel_values_videos"].dtype == torch.bfloat16
    names = ("mm_token_type_ids", "image_grid_thw", "video_grid_thw", "second_per_grid_ts", "attention_mask")
    positions, _ = lm.model.model.get_rope_index(inputs["input_ids"], **{name: inputs.get(name) for name in names})
    in_video = inputs["input_ids"] == lm.model.config.video_token_id
    times = positions[0][in_video].unique()
    # 20 pairs of frames, 2 / 1.3 s apart, at 4 positions a second
    assert (times - times[0]).tolist() == [int(4 * pair * 2 / 1.3) for pair in range(20)]


@pytest.mark.slow
def test_an_empty_prompt_is_answered_and_one_beyond_the_context_refused(lm: SteeredVlm) -> None:
    assert generated(lm, ("", [picture(0)]))
    text = lm.config.get_text_config(decoder=True)
    text.max_position_embeddings = 64
    with pytest.raises(UserError, match=r"'cup cup .* tokens long, but .* takes 64"):
        generated(lm, ("cup " * 80, [picture(0)]))


def test_visuals_that_are_not_in_a_list_for_each_question_are_refused() -> None:
    lm = SteeredVlm(pretrained="tiny-paligemma2")
    flat: Any = [picture(0)]
    with pytest.raises(UserError, match=r"a list of visuals for each question, as in \[\[image\]\], got Image$"):
        lm.model_inputs([QUESTIONS[0]], flat)
    assert lm.model_inputs([QUESTIONS[0]], [(picture(0),)])


def test_out_of_memory_halves_the_batch_and_logs_it(capsys: pytest.CaptureFixture[str]) -> None:
    print_notes()
    sizes: list[int] = []

    def run(part: list[int]) -> list[int]:
        sizes.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError("no room")
        return [2 * x for x in part]

    assert batches.run_grouped(list(range(7)), lambda x: 0, run) == [2 * x for x in range(7)]
    assert sizes == [7, 4, 2, 2, 3, 2, 1]
    assert "out of memory with 7 questions at once, going on with 4" in capsys.readouterr().err
    with pytest.raises(torch.OutOfMemoryError):
        batches.run_grouped([1], lambda x: 0, lambda part: run([1, 2, 3]))


def test_idefics_image_settings_are_model_args(checkpoints: dict[str, Any], tmp_path: Path) -> None:
    from lmms_steer.harness.steered import SteeredIdefics3
    from tests.helpers.checkpoints import build

    model, processor = checkpoints.setdefault("idefics3", build("idefics3"))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    image_id = model.config.image_token_id
    counts = []
    for settings in ({}, {"do_image_splitting": False}, {"size": 96}):
        lm = SteeredIdefics3(pretrained=str(tmp_path), **settings)
        counts.append(int((lm.model_inputs([QUESTIONS[0]], [[picture(0)]])["input_ids"] == image_id).sum()))
    assert counts[1] < counts[0] < counts[2]
    with pytest.raises(UserError, match="min_pixels=9: a Idefics3ImageProcessor.* has no such setting"):
        SteeredIdefics3(pretrained=str(tmp_path), min_pixels=9)


def test_a_model_that_cannot_be_steered_is_refused_in_one_line(tmp_path: Path) -> None:
    from transformers import T5Config

    from lmms_steer.tiny_world.checkpoints import weights_dir

    T5Config(d_model=8).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is an encoder-decoder"):
        SteeredVlm(pretrained=str(tmp_path))
    with pytest.raises(UserError, match="takes neither images nor audio"):
        SteeredVlm(pretrained=str(weights_dir("tiny-gemma2")))
    with pytest.raises(UserError, match="no model: add pretrained=NAME"):
        SteeredVlm()
    with pytest.raises(UserError, match="choose one"):
        SteeredVlm(pretrained="tiny-paligemma2", load_in_4bit=True, load_in_8bit=True)
    with pytest.raises(UserError, match="needs the package bitsandbytes"):
        SteeredVlm(pretrained="tiny-paligemma2", load_in_4bit=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_map_that_names_a_missing_device_is_refused_like_a_device() -> None:
    with pytest.raises(UserError, match="device_map=cuda cannot be used here"):
        SteeredVlm(pretrained="tiny-paligemma2", device_map="cuda")


def test_an_image_for_a_model_whose_template_shows_none_is_refused() -> None:
    lm = SteeredVlm(pretrained="tiny-qwen2-vl")
    with pytest.raises(UserError, match="the chat template of this checkpoint shows no images"):
        lm.model_inputs(["where is it?"], [[picture(0)]])
