"""Mean shift against a reference in plain numpy, one sentence at a time."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, ByT5Tokenizer

from lmms_steer import UserError, concepts
from lmms_steer.concepts import Concept, Pair
from lmms_steer.extraction.activations import read_activations
from lmms_steer.extraction.extract import Backbone
from lmms_steer.extraction.tokens import tokenize
from lmms_steer.tiny_world.checkpoints import weights_dir
from lmms_steer.vectors.controls import random_like


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone("tiny-gemma2")


def reference(concept: Concept) -> npt.NDArray[np.float64]:
    """mean(anchors) - mean(others) at every layer, by decoding each sentence alone and comparing words."""
    folder = weights_dir("tiny-gemma2")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    anchors: list[npt.NDArray[np.float32]] = []
    others: list[npt.NDArray[np.float32]] = []
    for pair in concept.pairs:
        ids = tokenizer(pair.sentence, return_tensors="pt")["input_ids"]
        seen: list[npt.NDArray[np.float32]] = []
        handles = [
            layer.register_forward_hook(lambda m, a, o, seen=seen: seen.append(o[0].numpy()))
            for layer in model.model.layers
        ]
        with torch.no_grad():
            model(ids)
        for handle in handles:
            handle.remove()
        for position, token in enumerate(ids[0].tolist()):
            if token == tokenizer.bos_token_id:
                continue
            rows = anchors if tokenizer.decode([token]).strip() == pair.anchor.lower() else others
            rows.append(np.stack([layer[position] for layer in seen]))
    shift: npt.NDArray[np.float64] = np.array(anchors, np.float64).mean(0) - np.array(others, np.float64).mean(0)
    return shift


@pytest.mark.parametrize("name", ["spatial", "counting", "attribute", "entity"])
def test_mean_shift_equals_the_reference_at_every_layer(backbone: Backbone, name: str) -> None:
    concept = concepts.load(name)
    vectors = backbone.vectors(concept, "mean_shift", backbone.read(concept))
    expected = reference(concept)
    assert vectors.layers == tuple(range(len(expected)))
    for layer in vectors:
        assert np.abs(vectors[layer] - expected[layer]).max() < 1e-5


def test_batch_size_and_padding_change_nothing(backbone: Backbone) -> None:
    concept = concepts.load("spatial")
    one, many = (backbone.vectors(concept, "mean_shift", backbone.read(concept, size)) for size in (1, 24))
    assert max(np.abs(one[layer] - many[layer]).max() for layer in one) < 1e-5


@pytest.mark.slow
def test_a_tiny_tokenizer_knows_every_word_of_the_shipped_concepts(backbone: Backbone) -> None:
    of_videos_and_sounds = Backbone("tiny-qwen2-vl")
    for concept in concepts.shipped():
        assert len(concept.pairs) >= 16
        moving = concept.name.startswith(("movement-", "pitch-"))
        activations = (of_videos_and_sounds if moving else backbone).read(concept)
        assert not activations.skipped and not activations.unknown_words
        assert len(activations.anchors) == len(concept.pairs)


def test_a_sentence_without_its_anchor_and_unknown_words_are_reported(backbone: Backbone) -> None:
    pairs = (Pair("left", "The lamp is left of the door."), Pair("above", "The zebra is below the door."))
    activations = backbone.read(Concept("mine", "", pairs))
    assert activations.skipped == ("sentence 2: 'above' is not in 'The zebra is below the door.'",)
    activations = backbone.read(Concept("mine", "", (Pair("left", "The zebra is left of it."),)))
    assert activations.unknown_words == ("zebra",)


def test_no_anchor_and_no_control_are_refused(backbone: Backbone) -> None:
    with pytest.raises(UserError, match="no sentence contains its anchor"):
        backbone.read(Concept("mine", "", (Pair("up", "The lamp is left."),)))
    with pytest.raises(UserError, match="contain only anchors"):
        backbone.read(Concept("mine", "", (Pair("left", "left"),)))


def test_an_anchor_of_several_tokens_counts_once_as_their_mean(checkpoints: dict[str, Any]) -> None:
    from tests.helpers.checkpoints import build

    model, processor = checkpoints.setdefault("paligemma2", build("paligemma2"))
    text, tokenizer = model.model.language_model, processor.tokenizer
    wrapped = type(
        "Text",
        (torch.nn.Module,),
        {
            "config": model.config.text_config,
            "get_decoder": lambda self: text,
            "forward": lambda self, **k: text(**k),
            "parameters": lambda self: text.parameters(),
        },
    )()
    sentence = "how many xylophones are there"
    activations = read_activations(wrapped, tokenizer, Concept("c", "", (Pair("xylophones", sentence),)))
    pieces = tokenizer(sentence, return_offsets_mapping=True)["offset_mapping"]
    inside = [i for i, (a, b) in enumerate(pieces) if a < 19 and b > 9]
    assert len(inside) > 1
    assert len(activations.anchors) == 1
    assert len(activations.controls) == len(pieces) - len(inside)


def test_a_missing_bos_is_added_and_without_a_bos_the_first_token_is_left_out(
    backbone: Backbone,
) -> None:
    concept = concepts.load("spatial")
    expected = backbone.read(concept)
    without = AutoTokenizer.from_pretrained(weights_dir("tiny-paligemma2"))
    assert without("the cup")["input_ids"][0] != without.bos_token_id
    assert np.abs(read_activations(backbone.model, without, concept).controls - expected.controls).max() < 1e-5
    without.bos_token = None
    headless = read_activations(backbone.model, without, concept)
    first = [number for number, pair in enumerate(concept.pairs) if pair.sentence.lower().startswith(pair.anchor)]
    assert len(headless.anchors) == len(expected.anchors) - len(first) and len(headless.skipped) == len(first) > 0
    read = [span.sentence for span in expected.control_places]
    others = len(read) - sum(read.count(number) for number in first)
    assert len(headless.controls) == others - (len(concept.pairs) - len(first))


def test_a_tokenizer_that_does_not_know_the_places_of_its_tokens_is_one_line() -> None:
    with pytest.raises(UserError, match="a ByT5Tokenizer does not say which characters its tokens are of"):
        tokenize(ByT5Tokenizer(), ["the cup"])


def test_a_contrast_concept_is_the_word_against_the_other_words(backbone: Backbone) -> None:
    red = concepts.load("colour-red")
    activations = backbone.read(red)
    assert len(activations.anchors) == 20 and len(activations.controls) == 140
    assert not set(activations.anchor_sentence) & set(activations.control_sentence)


def test_random_controls_have_the_norms_and_the_seed(backbone: Backbone) -> None:
    concept = concepts.load("spatial")
    v = backbone.vectors(concept, "mean_shift", backbone.read(concept))
    a, again, b = random_like(v, 1), random_like(v, 1), random_like(v, 2)
    assert a.sha256 == again.sha256 != b.sha256
    for layer in v:
        assert np.linalg.norm(a[layer]) == pytest.approx(np.linalg.norm(v[layer]), rel=1e-5)
    assert a.provenance["settings"]["seed"] == 1 and a.provenance["method"] == "random-1"


def test_the_python_interface_logs_the_warnings_of_the_command_once_for_each_concept(
    backbone: Backbone, caplog: pytest.LogCaptureFixture
) -> None:
    twice = Pair("left", "The lamp is left.")
    few = Concept("few", "", (Pair("left", "It is left of it."), twice, twice, Pair("up", "The lamp is left.")))
    activations = backbone.read(few)
    for method in ("mean_shift", "pca"):
        backbone.extract(few, method, activations)
    backbone.vectors(concepts.load("spatial"), "mean_shift", backbone.read(concepts.load("spatial")))
    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("lmms_steer.extraction.extract", "WARNING")
    ] * 3
    assert [record.getMessage().partition(":")[2] for record in caplog.records] == [
        " 'up' is not in 'The lamp is left.'",
        " 1 sentence given before, which count more than the others; the first: sentence 3 is sentence 2,"
        " 'The lamp is left.'",
        " 3 anchors that tiny-gemma2 knows, fewer than 10: the direction mostly reflects what else these few sentences"
        " say; write more of them",
    ]
