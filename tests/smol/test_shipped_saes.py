"""The SAE vectors of `smollm2-135m` that ship: their provenance, their features, and what they add."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lmms_steer import concepts, steer
from lmms_steer.vectors import store
from lmms_steer.vectors.steering_vectors import SteeringVectors
from lmms_steer.vectors.weights import model_source
from tests.helpers.models import record

CONCEPTS = ("spatial", "counting", "entity", "attribute", "colour-red", "colour-blue")
LAYERS = (8, 16, 24)


def shipped(concept: str, method: str = "sae") -> SteeringVectors:
    return SteeringVectors.load(store.find(f"smollm2-135m/{concept}/{method}", None).path)


@pytest.mark.parametrize("concept", CONCEPTS)
def test_a_shipped_vector_says_from_which_features_and_sentences_it_was_made(concept: str) -> None:
    vectors = shipped(concept)
    assert (tuple(vectors), vectors.hidden_size) == (LAYERS, 576)
    assert vectors.norms == pytest.approx(dict.fromkeys(LAYERS, 1.0), abs=1e-5)
    assert vectors.provenance["sentences_sha256"] == concepts.load(concept).sentences_sha256
    assert vectors.provenance["settings"]["judge"] == "none"
    for layer, found in vectors.provenance["settings"]["layers"].items():
        assert found["sae"].split("@")[0].endswith(f"/layer_{layer}")
        features = found["features"]
        assert 0 < len(features) <= 16
        assert all(row["count"] >= 2 and row["by"] == "none" for row in features)
        scores = [row["score"] for row in features]
        assert scores == sorted(scores, reverse=True)


def test_at_each_layer_some_features_are_listed_for_all_concepts() -> None:
    # what docs/pretrained.md says of vectors that no judge has checked
    for layer in map(str, LAYERS):
        listed = [shipped(name).provenance["settings"]["layers"][layer]["features"] for name in CONCEPTS]
        assert 6 <= len(set.intersection(*({row["feature"] for row in rows} for rows in listed))) <= 9


def test_a_shipped_vector_steers_a_model_of_the_shape() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=576,
        intermediate_size=8,
        num_hidden_layers=30,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
    )
    model = LlamaForCausalLM(config).eval()
    ids = torch.arange(3, 11)[None]
    vectors = shipped("spatial")
    before = record(model, lambda: model(ids))
    with steer(model, "vector=v,layer=16,alpha=20,tokens=both", {"v": vectors}):
        after = record(model, lambda: model(ids))
    added = (after[16] - before[16])[0].numpy()
    assert all(torch.equal(after[layer], before[layer]) for layer in range(16))
    moved = np.abs(added).max(1) > 0
    assert moved.sum() >= 6
    assert added[moved] == pytest.approx(np.tile(20 * vectors[16], (int(moved.sum()), 1)), abs=1e-4)


def test_a_shipped_vector_was_made_from_the_weights_that_are_made_here(smollm2: Path) -> None:
    assert smollm2.is_dir()
    assert shipped("spatial").provenance["weights_sha256"] == model_source("smollm2-135m")["weights_sha256"]
