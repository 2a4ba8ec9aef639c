"""Prompt formats: the built-in ones, those of other packages, and those that a user names or gives as a function."""

import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lmms_steer import UserError, register_prompt_format
from lmms_steer.extraction.extract import Backbone
from lmms_steer.harness.steered import SteeredIdefics3, SteeredPaliGemma, SteeredVlm
from lmms_steer.models import CONTRAST_ARGS, IMAGE_SETTINGS, MODEL_ARGS, VIDEO_SETTINGS
from lmms_steer.models.checkpoint import HfCheckpoint
from lmms_steer.models.contrasts import ContrastSettings
from lmms_steer.models.own_prompts import cache_key, own_prompts
from lmms_steer.models.prompt_formats import paligemma_prefix
from lmms_steer.models.prompts import PromptFormat, prompt_format_for, prompt_formats
from tests.helpers.checkpoints import build
from tests.helpers.models import picture, vectors

TINY = "tiny-paligemma2"


def shouting(processor: Any, questions: Any, visuals: Any, answers: Any) -> Any:
    return paligemma_prefix(processor, [f"left {question}" for question in questions], visuals, answers)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(prompt_formats, "_entries", dict(prompt_formats._entries))
    monkeypatch.setitem(vars(prompt_formats), "_entry_points", {})


def first_prompt(lm: HfCheckpoint) -> str:
    return str(lm.tokenizer.decode(lm.model_inputs(["the red cup"], [[picture(0)]])["input_ids"][0]))


def test_the_built_in_formats_are_chosen_by_processor_and_by_model() -> None:
    assert set(prompt_formats.names()) == {"chat", "florence2", "paligemma", "plain"}
    assert all("\n" not in entry.description for entry in prompt_formats.entries().values())
    assert SteeredVlm(pretrained=TINY).prompt_format.name == "paligemma"
    assert SteeredPaliGemma.default_prompt_format == "paligemma" and SteeredIdefics3.default_prompt_format == "chat"
    chat: Any = SimpleNamespace(chat_template="{{ messages }}")
    assert prompt_format_for(chat).name == "chat"


def test_a_processor_that_no_format_matches_is_refused_with_the_known_formats() -> None:
    with pytest.raises(UserError, match=r"a SimpleNamespace without a chat template: .*known: .*paligemma"):
        prompt_format_for(SimpleNamespace())


def test_a_format_that_a_checkpoint_has_no_template_for_is_refused() -> None:
    with pytest.raises(UserError, match="prompt_format=chat: the PaliGemmaProcessor .* has no chat template"):
        first_prompt(SteeredIdefics3(pretrained=TINY))


def test_a_format_that_fails_to_say_whether_it_matches_is_named() -> None:
    register_prompt_format("odd", description="d", matches=lambda p: p.chat_template.startswith("x"))(shouting)
    message = "the prompt format 'odd' cannot say whether it is for a SimpleNamespace: .* AttributeError: 'NoneType'"
    with pytest.raises(UserError, match=message):
        prompt_format_for(SimpleNamespace(chat_template=None))


def test_what_is_kept_about_a_registered_format_is_of_its_code() -> None:
    lm = SteeredPaliGemma(pretrained=TINY)

    def registered_as(function: Any) -> tuple[str, str | None]:
        prompt_formats._entries.pop("own", None)
        register_prompt_format("own", description="d", matches=lambda _: False)(function)
        lm.prompt_format = prompt_formats.get("own")
        facts = own_prompts(lm.model, lm.processor, lm.prompt_format, text_only=False).facts
        return cache_key(lm.model, facts), lm.cache_key

    def quiet(processor: Any, questions: Any, visuals: Any, answers: Any) -> Any:
        return paligemma_prefix(processor, [question.lower() for question in questions], visuals, answers)

    assert registered_as(shouting) == registered_as(shouting)
    norms, answers = zip(registered_as(shouting), registered_as(quiet), strict=True)
    assert norms[0] != norms[1] and answers[0] != answers[1]


def test_a_registered_format_claims_a_processor_before_the_built_in_ones() -> None:
    register = register_prompt_format("shout", description="d", matches=lambda p: "PaliGemma" in type(p).__name__)
    assert register(shouting) is shouting
    lm = SteeredVlm(pretrained=TINY)
    assert lm.prompt_format.name == "shout" and "left the red cup" in first_prompt(lm)
    # a model that names its format keeps it
    assert SteeredPaliGemma(pretrained=TINY).prompt_format.name == "paligemma"
    with pytest.raises(ValueError, match="prompt format 'shout' is already registered"):
        register(shouting)


def test_a_script_s_format_is_asked_before_the_built_in_ones_that_are_not_loaded_yet() -> None:
    code = (
        "from lmms_steer import register_prompt_format;"
        "register_prompt_format('mine', description='d', matches=lambda p: True)(lambda *args: None);"
        "from types import SimpleNamespace; from lmms_steer.models.prompts import prompt_format_for;"
        "print(prompt_format_for(SimpleNamespace(chat_template='t')).name)"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["mine"]


def test_a_format_is_named_in_model_args_or_given_as_a_function() -> None:
    register_prompt_format("shout", description="d", matches=lambda p: False)(shouting)
    args = f"pretrained={TINY},prompt_format=shout"
    own = PromptFormat("own", "d", shouting, matches=lambda p: False)
    named = SteeredPaliGemma.create_from_arg_string(args)
    given = [SteeredVlm(pretrained=TINY, prompt_format=value) for value in (shouting, own, "paligemma")]
    assert [lm.prompt_format.name for lm in (named, *given)] == ["shout", "shout", "own", "paligemma"]
    assert ["left" in first_prompt(lm) for lm in (named, *given)] == [True, True, True, False]
    with pytest.raises(UserError, match="unknown prompt format 'shuot': did you mean 'shout'"):
        SteeredPaliGemma.create_from_arg_string(args.replace("shout", "shuot"))
    with pytest.raises(UserError, match="unknown prompt format '3'"):
        SteeredPaliGemma.create_from_arg_string(args.replace("shout", "3"))


def on_the_right(batch: Any) -> Any:
    """The same batch, padded on the other side."""
    counts = batch["attention_mask"].sum(1).tolist()
    for key in ("input_ids", "attention_mask"):
        rows = zip(batch[key], counts, strict=True)
        batch[key] = torch.stack([row.roll(count) for row, count in rows])
    return batch


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (on_the_right, "a batch that is padded on the right: call the processor with padding_side='left'"),
        (lambda _: None, "a NoneType: expected tensors by name"),
        (lambda batch: [batch], "a list: expected tensors by name"),
        (lambda batch: {key: value.numpy() for key, value in batch.items()}, "a dict: expected tensors by name"),
        (lambda batch: {key: value[:1] for key, value in batch.items()}, "1 rows of input_ids for 2 questions"),
        (lambda batch: {key: value for key, value in batch.items() if key != "labels"}, "no labels"),
    ],
)
def test_what_a_format_of_one_s_own_returns_is_checked(change: Any, message: str) -> None:
    def own(processor: Any, questions: Any, visuals: Any, answers: Any) -> Any:
        return change(paligemma_prefix(processor, questions, visuals, answers))

    lm = SteeredPaliGemma(pretrained=TINY, prompt_format=own)
    asked = ["the red cup", "the red cup on the old table"], [[picture(0)], [picture(1)]], ["left", "left"]
    with pytest.raises(UserError, match=f"^the prompt format 'own' returned {message}"):
        lm.model_inputs(*asked)


def test_a_format_of_one_s_own_may_return_a_dictionary() -> None:
    def own(processor: Any, questions: Any, visuals: Any, answers: Any) -> Any:
        return dict(paligemma_prefix(processor, questions, visuals, answers))

    asked = ["the red cup", "the red cup on the old table"], [[picture(0)], [picture(1)]]
    found, expected = (SteeredPaliGemma(pretrained=TINY, prompt_format=f).model_inputs(*asked) for f in (own, None))
    assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def test_the_norms_and_the_vectors_of_images_are_read_through_a_checked_format(tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    rows = [{"image": f"{i}.png", "prompt": "the cup" + " is red" * i, "contrast": "the ball"} for i in range(2)]
    for row, number in zip(rows, range(2), strict=True):
        picture(number).save(tmp_path / row["image"])
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    backbone = Backbone(TINY)

    def anchors(change: Any) -> Any:
        prompt_formats._entries.pop("own", None)
        register_prompt_format("own", description="d", matches=lambda _: True)(
            lambda *args: change(paligemma_prefix(*args))
        )
        return backbone.read_image_pairs(questions, "mine")[1].anchors

    expected = backbone.read_image_pairs(questions, "mine")[1].anchors
    assert np.array_equal(anchors(dict), expected)
    with pytest.raises(UserError, match="the prompt format 'own' returned a batch that is padded on the right"):
        anchors(on_the_right)
    lm = SteeredPaliGemma(pretrained=TINY, prompt_format=lambda *args: dict(paligemma_prefix(*args)))
    prompts = own_prompts(lm.model, lm.processor, lm.prompt_format, text_only=False)
    assert set(next(iter(prompts.batches))) == {"input_ids", "attention_mask", "pixel_values", "token_type_ids"}


@pytest.mark.parametrize("name", ["llava", "paligemma2", "qwen2_5_vl", "gemma3", "smolvlm", "blip-2", "florence2"])
def test_placeholders_in_a_question_are_no_further_images(name: str) -> None:
    _, processor = build(name)
    make, question = prompt_format_for(processor), "where is the cup ? "
    token = str(getattr(processor, "boi_token", None) or processor.image_token)
    written = [f"<image>{question}", f"where is {token}the cup ? "]
    answers = None if name == "florence2" else ["left"]
    expected = make(processor, [question], [[picture(0)]], answers)
    for text in written:
        batch = make(processor, [text], [[picture(0)]], answers)
        assert batch.keys() == expected.keys() and all(torch.equal(batch[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "smolvlm"])
def test_a_contrast_without_the_image_asks_the_same_question(name: str, tmp_path: Path) -> None:
    model, processor = build(name)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    contrasted: Any = SteeredVlm(pretrained=str(tmp_path), contrast="m3id").contrasted
    plain, tagged = (contrasted.inputs([f"{mark}where ?"], [[picture(0)]])["input_ids"] for mark in ("", "<image>"))
    assert len(plain) == 2 and torch.equal(plain, tagged)


def test_a_question_without_an_image_keeps_its_text() -> None:
    _, processor = build("qwen2_5_vl")
    make, question = prompt_format_for(processor), "what does the tag <image> mean ?"
    batch = make(processor, [question], [[]])
    turn = [{"role": "user", "content": [{"type": "text", "text": question}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    assert "<image>" in text and batch["input_ids"][0].tolist() == processor.tokenizer(text)["input_ids"]


@pytest.mark.parametrize("matches", [False, True], ids=["matches no processor", "matches every processor"])
def test_norms_are_measured_in_the_named_format_and_cached_apart(
    tmp_path: Path, own_cache: Path, matches: bool
) -> None:
    named = PromptFormat("shouting", "louder", shouting, matches=lambda processor: matches)
    path = vectors(5, 96, model="tiny-gemma2").save(tmp_path / "v.safetensors")
    spec = {"vector": str(path), "layer": 1, "alpha": 1, "tokens": "text", "scale": "relative"}
    norms = [SteeredVlm(pretrained=TINY, **spec, **more).resolved.norms for more in ({}, {"prompt_format": named})]
    assert norms[0] != norms[1] and len(list((own_cache / "norms").iterdir())) == 2
    assert torch.isfinite(torch.tensor([n[1]["text"] for n in norms if n is not None])).all()


def test_model_args_are_the_arguments_of_a_checkpoint() -> None:
    parameters = inspect.signature(HfCheckpoint.__init__).parameters
    named = {name for name, p in parameters.items() if p.kind is not p.VAR_KEYWORD} - {"self"}
    assert named | {*IMAGE_SETTINGS, *VIDEO_SETTINGS, *CONTRAST_ARGS} == set(MODEL_ARGS)
    assert len(MODEL_ARGS) == len(set(MODEL_ARGS))
    described = f"{HfCheckpoint.__doc__} {ContrastSettings.__doc__}"
    assert all(name.removeprefix("contrast_") in described for name in MODEL_ARGS)
