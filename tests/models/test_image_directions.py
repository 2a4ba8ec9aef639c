"""Vectors of single questions: each row is steered by what its own image changes, compared with one question alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lmms_steer import SteeringError, UserError, steer
from lmms_steer.harness.arguments import check_model_args
from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.harness.steering_mixin import SteeringMixin
from lmms_steer.models.image_directions import image_directions
from lmms_steer.steering.facts import vision_shape
from tests.helpers.checkpoints import build
from tests.helpers.models import picture, record, vectors

QUESTIONS = ("where is the red cat ?", "how many cups are on the table , or left of the dog ?")
LAYER, ALPHA, TOKENS = 1, 4.0, 4


@pytest.fixture(scope="module", params=["idefics3", "qwen2_5_vl", "paligemma2"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    model, processor = build(request.param)
    folder = tmp_path_factory.mktemp("models") / request.param
    # larger weights than a random model's, so that steering changes answers
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return request.param, folder


NORM_KEPT = {"operation": "norm_preserving", "scale": "unit", "phase": "all"}


@pytest.mark.parametrize("more", [{}, NORM_KEPT, {**NORM_KEPT, "operation": "norm_preserving_weighted"}])
def test_each_row_of_a_batch_is_steered_by_its_own_image(checkpoint: tuple[str, Path], more: dict[str, str]) -> None:
    name, folder = checkpoint
    without_image = name != "paligemma2"
    spec = {"layer": LAYER, "alpha": ALPHA, "tokens": "both", **more}
    vector = "@image_contrast" if without_image else "@image_contrast_blank"
    steered = SteeredVlm(pretrained=str(folder), vector=vector, **spec)
    plain = SteeredVlm(pretrained=str(folder))
    blank = SteeredVlm(pretrained=str(folder), image="blank")
    batch = [(question, [picture(number)]) for number, question in enumerate(QUESTIONS)]
    settings = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
    found = [result.text for result in steered._generate(batch, settings)]
    beams = [result.text for result in steered._generate(batch, {**settings, "num_beams": 2})]
    losses = [result.text[0] for result in steered._score([(*one, "three , or") for one in batch])]
    for place, (question, images) in enumerate(batch):
        seen = plain.model_inputs([question], [images])
        unseen = plain.model_inputs([question], [[]]) if without_image else blank.model_inputs([question], [images])
        direction = last_token(plain, seen) - last_token(plain, unseen)
        with pushed(plain, direction, more):
            (expected,) = plain._generate([batch[place]], settings)
            (expected_beams,) = plain._generate([batch[place]], {**settings, "num_beams": 2})
            (scored,) = plain._score([(*batch[place], "three , or")]) if "phase" in more else (None,)
        assert (found[place], beams[place]) == (expected.text, expected_beams.text)
        assert scored is None or losses[place] == pytest.approx(scored.text[0], rel=1e-4)
    unsteered = [result.text[0] for result in plain._score([(*one, "three , or") for one in batch])]
    assert max(abs(loss - other) for loss, other in zip(losses, unsteered, strict=True)) > 1e-3


def last_token(lm: SteeredVlm, inputs: dict[str, Any]) -> torch.Tensor:
    return record(lm.model, lambda: lm.model(**inputs, use_cache=False))[LAYER][0, -1]


class pushed:
    """The formula by a hook of the test: at every position, or at those of the prompt, which the first call runs on."""

    def __init__(self, lm: SteeredVlm, direction: torch.Tensor, more: dict[str, str]) -> None:
        self.lm, self.direction, self.more = lm, direction, more

    def __enter__(self) -> None:
        unit = self.direction / self.direction.norm()

        def push(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
            if "phase" in self.more:
                away = (output @ -unit / output.norm(dim=-1)).clamp_min(0).unsqueeze(-1)
                weight = 1 + away if "weighted" in self.more["operation"] else 1
                moved = output + weight * ALPHA * unit
                kept: torch.Tensor = moved * output.norm(dim=-1, keepdim=True) / moved.norm(dim=-1, keepdim=True)
                return kept
            return output + ALPHA * self.direction if output.shape[1] > 1 else output

        self.handle = self.lm.model.get_decoder().layers[LAYER].register_forward_hook(push)

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def test_alpha_0_computes_nothing_and_is_the_plain_model(checkpoint: tuple[str, Path]) -> None:
    batch = [(QUESTIONS[0], [picture(0)])]
    steered, plain = (
        SteeredVlm(pretrained=str(checkpoint[1]), **more)
        for more in ({"vector": "@image_contrast_blank", "alpha": 0}, {})
    )
    calls = []
    steered.model.register_forward_pre_hook(lambda *_: calls.append(1))
    found = steered._score([(*batch[0], "three")])[0].text
    assert found == plain._score([(*batch[0], "three")])[0].text and len(calls) == 1


def test_a_placeholder_in_a_question_changes_no_direction(checkpoint: tuple[str, Path]) -> None:
    name, folder = checkpoint
    lm, contrast = SteeredVlm(pretrained=str(folder)), "@image_contrast_blank" if "pali" in name else "@image_contrast"
    found = [
        image_directions(lm, {contrast: [LAYER]}, [f"{mark}{QUESTIONS[0]}"], [[picture(0)]]) for mark in ("", "<image>")
    ]
    assert torch.equal(*(one[contrast][LAYER] for one in found))


def test_directions_are_of_the_unsteered_vision_tower_too(checkpoint: tuple[str, Path]) -> None:
    lm = SteeredVlm(pretrained=str(checkpoint[1]))
    needed, asked = {"@image_contrast_blank": [LAYER]}, ([QUESTIONS[0]], [[picture(0)]])
    (plain,) = image_directions(lm, needed, *asked).values()
    shape = vision_shape(lm.model.config)
    assert shape is not None
    with steer(lm.model, "vector=v,layer=0,alpha=50,site=vision", {"v": vectors(*shape)}):
        (beside_it,) = image_directions(lm, needed, *asked).values()
    assert torch.equal(plain[LAYER], beside_it[LAYER])


def test_what_has_no_vector_of_its_own_is_refused(checkpoint: tuple[str, Path]) -> None:
    name, folder = checkpoint
    lm = SteeredVlm(pretrained=str(folder), vector="@image_contrast", layer=1)
    if name == "paligemma2":
        with pytest.raises(UserError, match="PaliGemma needs an image .*; choose vector=@image_contrast_blank"):
            lm._generate([(QUESTIONS[0], [picture(0)])], {"max_new_tokens": 2})
    else:
        with pytest.raises(UserError, match="is what a question's image changes, and 'where is the red cat"):
            lm._generate([(QUESTIONS[0], [])], {"max_new_tokens": 2})
    for args, expected in (
        ({"vector": "@image_contrst"}, "did you mean '@image_contrast'"),
        (
            {"vector": "@image_contrast", "operation": "clamp"},
            "expected add, norm_preserving or norm_preserving_weighted",
        ),
        ({"vector": "@image_contrast", "control": "random"}, "it has no control"),
        ({"vector": "@image_contrast", "gate": "cosine"}, "the gate needs one direction"),
        ({"vector": "@image_contrast", "site": "vision"}, "of the language model's layers"),
    ):
        with pytest.raises(UserError, match=expected):
            SteeredVlm(pretrained=str(folder), **args)
    plain = SteeredVlm(pretrained=str(folder))
    inputs = plain.model_inputs([QUESTIONS[0]], [[picture(0)]])
    with (
        steer(plain.model, "vector=@image_contrast_blank,layer=1,alpha=1,tokens=both"),
        pytest.raises(SteeringError, match="which only the evaluation of a model of ours"),
    ):
        plain.model(**inputs)


def test_other_programs_refuse_such_a_vector_at_once() -> None:
    with pytest.raises(UserError, match="another direction for each question: it is for evaluations"):
        check_model_args("steered_hf", "pretrained=tiny-paligemma2,vector=@image_contrast")
    with pytest.raises(UserError, match="another direction for each question: it is for evaluations"):
        SteeringMixin().take_spec({"vector": "@image_contrast"})
