"""The blank image: the same questions with every image grey, in a search and in an evaluation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lmms_steer import UserError, steer
from lmms_steer.harness import patches
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.models.visuals import blank_visuals
from lmms_steer.tiny_world.question_sets import load_question_set
from tests.helpers.models import picture
from tests.helpers.searches import result_of


@pytest.mark.slow
def test_a_search_measures_its_choice_on_grey_images_of_the_same_size(finished_study: Path) -> None:
    lm, result = SteeredPaliGemma(pretrained="tiny-paligemma2"), result_of(finished_study)
    rows = load_question_set("counting", "select")[:64]
    words = sorted({choice for row in rows for choice in row["choices"]})
    ids = {word: lm.first_token(word) for word in words}

    def correct() -> float:
        hits = []
        for row in rows:
            grey = Image.new("RGB", row["image"].size, (128, 128, 128))
            with torch.inference_mode():
                logits = lm.model(**lm.model_inputs([row["question"]], [[grey]])).logits[0, -1]
            answer = int(logits[[ids[word] for word in row["choices"]]].argmax())
            hits.append(answer == "ABCDEF".index(row["answer"].strip("()")))
        return float(np.mean(hits))

    base, cell = correct(), result["vectors"]["counting"]["best"]
    line = ",".join(f"{key}={cell[key]}" for key in ("layer", "alpha", "tokens"))
    with steer(lm.model, f"vector=tiny-gemma2/counting,{line}"):
        steered = correct()
    blank = result["blank"]
    assert (blank["n"], blank["task"]) == (64, "tiny_counting_select")
    assert blank["baseline"] == pytest.approx(base) and base != pytest.approx(result["baseline"])
    assert blank["vectors"]["counting"]["accuracy"] == pytest.approx(steered) and set(blank["vectors"]) == {"counting"}


def test_blank_visuals_have_the_sizes_of_the_originals() -> None:
    image, frames = Image.new("L", (40, 20)), [picture(0), picture(1)]
    one, several = blank_visuals([image, frames])
    assert isinstance(one, Image.Image) and (one.mode, one.size) == ("RGB", (40, 20))
    assert isinstance(several, list) and [frame.size for frame in several] == [(32, 32)] * 2
    assert {*one.get_flattened_data(), *several[0].get_flattened_data()} == {(128, 128, 128)}


@pytest.mark.slow
def test_a_model_with_blank_images_sees_grey_ones_and_its_record_says_so() -> None:
    seeing, blind = (SteeredPaliGemma(pretrained="tiny-paligemma2", **more) for more in ({}, {"image": "blank"}))
    shown, grey = (lm.model_inputs(["how many ?"], [[picture(0)]])["pixel_values"] for lm in (seeing, blind))
    expected = seeing.model_inputs(["how many ?"], [[Image.new("RGB", (32, 32), (128,) * 3)]])["pixel_values"]
    assert torch.equal(grey, expected) and not torch.equal(grey, shown)
    assert patches._output_name(blind) == "tiny-paligemma2__image-blank"
    assert blind.steering_record["image"] == "blank" and "image" not in seeing.steering_record
    with pytest.raises(UserError, match="image=grey: expected blank, which replaces every image by a grey one"):
        SteeredPaliGemma(pretrained="tiny-paligemma2", image="grey")
