"""Extraction on first use: what no store has is made once, and unknown names are refused."""

import pytest

from lmms_steer import SteeringSpec, UserError
from lmms_steer.extraction.first_use import check_vectors, extract_missing
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.resolve import resolve
from tests.helpers import warm

TINY = ModelFacts("tiny-paligemma2", 5, 96)


@pytest.mark.slow
def test_a_missing_vector_is_extracted_on_first_use_and_stored() -> None:
    spec = SteeringSpec.parse("vector=spatial/linear_probe,layer=1,alpha=1,tokens=image,control=shuffled")
    lines = list(extract_missing(spec, "tiny-paligemma2"))
    assert "extracting tiny-gemma2/spatial/linear_probe-shuffled" in lines[0]
    assert resolve(spec, TINY).vectors[0].provenance["settings"]["control"] == "shuffled"
    assert not list(extract_missing(spec, "tiny-paligemma2"))
    for line in ("vector=my-own,layer=1", "vector=spatial/no_method", "vector=./x.safetensors"):
        assert not list(extract_missing(SteeringSpec.parse(line), "tiny-paligemma2"))
    assert not list(extract_missing(SteeringSpec.parse("vector=spatial"), "unknown/model"))


def test_only_vectors_that_are_stored_or_can_be_extracted_are_accepted() -> None:
    for name in ("spatial", "spatial/pca-shuffled", "tiny-gemma2/colour-red", "counting/linear_probe-random"):
        check_vectors(SteeringSpec.parse(f"vector={name}"), "tiny-paligemma2")
    for name, expected in (
        ("spatail", "unknown vector 'spatail': did you mean 'spatial'"),
        ("spatial/no_method", "unknown vector 'spatial/no_method'"),
        ("./none.safetensors", "no such vector file"),
    ):
        with pytest.raises(UserError, match=expected):
            check_vectors(SteeringSpec.parse(f"vector={name}"), "tiny-paligemma2")
    for model, expected in (
        (
            "you/your-model",
            "^you/your-model: vector=spatial leaves out the text backbone.*whole name: one of",
        ),
        ("tiny-paligema2", "^unknown checkpoint 'tiny-paligema2': did you mean 'tiny-paligemma2'"),
    ):
        with pytest.raises(UserError, match=expected):
            check_vectors(SteeringSpec.parse("vector=spatial"), model)


@pytest.mark.slow
def test_two_processes_that_need_the_same_vector_extract_it_once() -> None:
    code = (
        "from lmms_steer import SteeringSpec; from lmms_steer.extraction.first_use import extract_missing;"
        "print(len(list(extract_missing(SteeringSpec.parse('vector=spatial/pca-random'), 'tiny-paligemma2'))))"
    )
    both = [warm.start("python", "-c", code) for _ in range(2)]
    lines = sorted(int(process.communicate()[0]) for process in both)
    assert lines == [0, 2]
