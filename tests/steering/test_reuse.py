"""Specs that were resolved before: what a model makes of one that `steer` or `find_alpha` has returned."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lmms_steer
from lmms_steer import SteeringSpec, SteeringVectors, UserError, steer
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.resolve import resolve
from lmms_steer.steering.reuse import check_resolved, stored_spec
from lmms_steer.vectors import store

RED = "tiny-gemma2/colour-red/mean_shift"
BLUE = "tiny-gemma2/colour-blue/mean_shift"
FACTS = ModelFacts("tiny-paligemma2", 5, 96)


def resolved(line: str, given: Any = None) -> Any:
    return resolve(SteeringSpec.parse(line), FACTS, given)


@pytest.fixture
def mine() -> SteeringVectors:
    shipped = store.load_vectors(RED)
    return SteeringVectors({layer: -3 * shipped[layer] for layer in shipped}, shipped.provenance)


def test_a_model_that_is_given_a_resolved_spec_has_its_vectors(own_cache: Path, mine: SteeringVectors) -> None:
    line = f"vector={RED},layer=1,alpha=1,tokens=image"
    done = resolved(line, {RED: mine})
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2", steering=done)
    assert [one.sha256 for one in lm.resolved.vectors] == [mine.sha256]
    # of what a store has, the name is kept
    assert stored_spec(resolved(line)) == SteeringSpec.parse(line)
    seen = lmms_steer.inspect(
        "the cat", {"pretrained": "tiny-gemma2", "steering": resolved(line.replace("image", "both"))}
    )
    assert RED in repr(seen)


def test_an_operation_without_a_name_is_refused() -> None:
    done = resolve(
        SteeringSpec.parse(f"vector={RED},layer=1,alpha=1,tokens=image"), FACTS, None, lambda hidden, _: hidden
    )
    with pytest.raises(UserError, match="its operation .* is not registered"):
        SteeredPaliGemma(pretrained="tiny-paligemma2", steering=done)


def test_a_resolved_spec_is_checked_against_the_model_that_it_is_given_to() -> None:
    done = resolved(f"vector={RED},layer=4,alpha=1,tokens=image")
    with pytest.raises(UserError, match="layer=4: other has the layers 0-2"):
        check_resolved(done, ModelFacts("other", 3, 96))
    with pytest.raises(UserError, match="width"):
        check_resolved(done, ModelFacts("other", 5, 48))


@pytest.mark.usefixtures("own_cache")
def test_controls_of_several_vectors_do_not_cancel() -> None:
    def two(control: str) -> str:
        place = f"layer=2,tokens=both,control={control}"
        return f"vector={RED},alpha=1,{place}; vector={BLUE},alpha=-1,{place}; vector={RED},alpha=2,{place}"

    done = resolved(two("random:3"))
    red, blue, again = (one[2] for one in done.vectors)
    assert abs(float(red @ blue)) < 0.3 * float(np.linalg.norm(red) * np.linalg.norm(blue))
    # one vector has one control, at all its places
    assert np.array_equal(red, again)
    alone = resolved(f"vector={RED},alpha=1,layer=2,tokens=both,control=random:3")
    assert alone.vectors[0].sha256 == done.vectors[0].sha256
    # what the spec alone would not make again is kept in a file
    assert [one.sha256 for one in resolved(str(stored_spec(done))).vectors] == [one.sha256 for one in done.vectors]
    with pytest.raises(UserError, match=f"{RED} and {BLUE} would both become .* at layer 2: name another concept"):
        resolved(two("wrong_concept:counting"))


def test_a_block_in_which_nothing_is_steered_says_so(caplog: pytest.LogCaptureFixture) -> None:
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2")
    ids = lm.tokenizer("the cat", return_tensors="pt")["input_ids"]
    for tokens, warns in (("image", True), ("text", False)):
        caplog.clear()
        line = f"vector={RED},layer=1,alpha=1,tokens={tokens}"
        with caplog.at_level(logging.WARNING), steer(lm.model, line), torch.inference_mode():
            lm.model(input_ids=ids)
        assert ("not one token was steered in this block" in caplog.text) == warns
