"""Controls by name, as a spec's `control` gives them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmms_steer import SteeringSpec, SteeringVectors, UserError
from lmms_steer.extraction.first_use import extract_missing
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.resolve import resolve
from lmms_steer.vectors import store
from tests.helpers.models import vectors

TINY = ModelFacts("tiny-paligemma2", 5, 96)


def control(text: str) -> SteeringVectors:
    line = f"vector=spatial,layer=1,alpha=1,tokens=image,control={text}"
    assert str(SteeringSpec.parse(line)) == line
    return resolve(SteeringSpec.parse(line), TINY).vectors[0]


def test_control_replaces_the_vector_at_the_same_norms() -> None:
    true = SteeringVectors.load(store.find("spatial", "tiny-gemma2").path)
    counting = SteeringVectors.load(store.find("counting", "tiny-gemma2").path)
    random, seeded = control("random"), control("random:1")
    assert random.sha256 == control("random:0").sha256 != seeded.sha256
    wrong = control("wrong_concept:counting")
    assert np.allclose(wrong[1] / np.linalg.norm(wrong[1]), counting[1] / np.linalg.norm(counting[1]), atol=1e-6)
    for made in (random, seeded, wrong, control("wrong_concept")):
        assert all(
            np.linalg.norm(made[layer]) == pytest.approx(np.linalg.norm(true[layer]), rel=1e-5) for layer in made
        )
    for text, expected in (
        ("rand", "unknown control 'rand'"),
        ("random:x", "expected a seed"),
        ("shuffled:1", "takes no detail"),
        ("wrong_concept:spatial", "wrong_concept:spatial is the vector's own concept, and so no control"),
    ):
        with pytest.raises(UserError, match=expected):
            control(text)
    with pytest.raises(UserError, match="unknown vector"):
        control("shuffled")  # not extracted yet
    with pytest.raises(UserError, match="own concept"):
        list(extract_missing(SteeringSpec.parse("vector=spatial/pca,control=wrong_concept:spatial"), "tiny-paligemma2"))


def test_a_stored_control_of_earlier_sentences_is_refused(own_cache: Path) -> None:
    own: dict[str, Any] = {"model": "tiny-gemma2", "concept": "mine"}
    mine, shuffled = vectors(5, 96, **own), vectors(5, 96, seed=1, **own, method="mean_shift-shuffled")
    spec = SteeringSpec.parse("vector=mine,layer=1,alpha=1,tokens=image,control=shuffled")
    for one in (mine, shuffled):
        store.save(one)
    (made,) = resolve(spec, TINY).vectors
    assert np.allclose(made[1], shuffled[1] / np.linalg.norm(shuffled[1]) * np.linalg.norm(mine[1]), atol=1e-5)
    store.save(vectors(5, 96, **own, sentences_sha256="1"))
    message = "control=shuffled: tiny-gemma2/mine/mean_shift-shuffled was made from other sentences than .*/mine/mean_"
    with pytest.raises(
        UserError,
        match=f"{message}.*extract it again, with the options of that vector and --method mean_shift-shuffled",
    ):
        resolve(spec, TINY)
    for changed, message in (
        ({"settings": {"orthogonal_to_sha256": "1"}}, "with another --orthogonal_to than"),
        ({"settings": {"at": "image"}}, "with another --at than"),
        ({"settings": {"sae": "release"}}, "with another --sae than"),
        ({"settings": {"paper_exact": True}}, "with another --paper-exact than"),
        ({"weights_sha256": "a"}, "from other weights than"),
    ):
        store.save(vectors(5, 96, **own, **changed))
        store.save(vectors(5, 96, **own, method="mean_shift-shuffled", weights_sha256="b"))
        with pytest.raises(UserError, match=message):
            resolve(spec, TINY)
        store.save(vectors(5, 96, **own, method="mean_shift-shuffled", **changed))
        assert resolve(spec, TINY).vectors
    store.save(mine)
    other = SteeringSpec.parse("vector=mine,layer=1,alpha=1,tokens=image,control=wrong_concept:spatial")
    assert resolve(other, TINY).vectors, "another concept has other sentences"


@pytest.mark.parametrize(
    ("control", "chosen"),
    [
        ("wrong_concept", "'movement-down', a concept of another family, because none was named"),
        ("wrong_concept:movement-up", "'movement-up'"),
    ],
)
def test_a_missing_vector_of_a_control_is_traced_to_the_control(control: str, chosen: str) -> None:
    store.save(vectors(5, 96, model="tiny-gemma2", concept="green-things"))
    spec = SteeringSpec.parse(f"vector=green-things,layer=1,alpha=1,tokens=image,control={control}")
    with pytest.raises(UserError, match=f"^control={control} takes the vector of {chosen}: unknown vector .* extract "):
        resolve(spec, TINY)
