"""`vectors show` and `vectors compare`: norms, cosines, probe accuracy and words, checked against plain numpy."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lmms_steer import SteeringVectors, UserError
from lmms_steer.inspection.vector_figure import draw_vector
from lmms_steer.inspection.vectors import comparison_lines, cosine_by_layer, describe_vector, description_lines
from lmms_steer.tiny_world.checkpoints import weights_dir
from lmms_steer.vectors import store
from tests.helpers.models import vectors


@pytest.mark.slow
def test_a_vector_is_described_as_computed_by_hand(tmp_path: Path) -> None:
    entry = store.find("tiny-gemma2/colour-red/mean_shift", None)
    shown, made = describe_vector(entry.path), SteeringVectors.load(entry.path)
    other = SteeringVectors.load(store.find("tiny-gemma2/colour-blue/mean_shift", None).path)
    for layer in made:
        assert shown.norms[layer] == pytest.approx(np.linalg.norm(made[layer]), rel=1e-5)
        cosine = made[layer] @ other[layer] / np.linalg.norm(made[layer]) / np.linalg.norm(other[layer])
        assert shown.cosines["colour-blue/mean_shift"][layer] == pytest.approx(cosine, abs=1e-5)
    folder = weights_dir("tiny-gemma2")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    scale = 1 + model.model.norm.weight
    with torch.no_grad():
        logits = model.lm_head.weight @ (torch.from_numpy(made[2].copy()) * scale)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert shown.words[2].promoted == tuple(tokenizer.decode([i]).strip() for i in logits.topk(8).indices)
    assert "red" in shown.words[2].promoted
    with torch.no_grad():
        texts = [[tokenizer.bos_token_id, i] for i in range(len(tokenizer))]
        states = model(torch.tensor(texts), output_hidden_states=True).hidden_states[1][:, 1]
    cosines = torch.nn.functional.cosine_similarity(states - states.mean(0), torch.from_numpy(made[2].copy())[None])
    assert shown.words[2].like == tuple(tokenizer.decode([i]).strip() for i in cosines.topk(8).indices)
    assert shown.words[2].like[0] == "red" and shown.words[2].cosine == pytest.approx(cosines.max().item(), abs=1e-4)
    assert shown.probe == {
        int(k): v
        for k, v in SteeringVectors.load(store.find("tiny-gemma2/colour-red/linear_probe", None).path)
        .provenance["settings"]["held_out_balanced_accuracy"]
        .items()
    }
    text = "\n".join(description_lines(shown))
    assert "sentences_sha256" in text and "words like the direction (=)" in text and "next words:" in text
    assert "probe: balanced accuracy" in text and "not fitted on (0.5 is chance)" in text
    assert draw_vector(shown, tmp_path / "v.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="ends in .png"):
        draw_vector(shown, tmp_path / "v.gif")
    figure = draw_vector(shown, tmp_path / "v.svg").read_text()
    assert f"cosine with the other vectors of this model: the 24 largest of {len(shown.cosines)}" in figure
    assert "layer (grey: no direction)" in figure and any(len(known) < 5 for known in shown.cosines.values())


def test_a_vector_without_its_model_is_shown_without_words() -> None:
    path = store.save(vectors(model="no-such-model", model_id="no/such-model"))
    shown = describe_vector(path)
    assert not shown.words and any("no words: cannot load" in note for note in shown.notes)
    assert "probe: balanced accuracy" not in "\n".join(description_lines(shown)), (
        "a column of dashes is not explained by numbers"
    )


def test_a_damaged_probe_does_not_block_other_vectors(own_cache: Path) -> None:
    damaged = store.user_store() / "tiny-gemma2" / "colour-red" / "linear_probe.safetensors"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half")
    shown = describe_vector(store.find("tiny-gemma2/colour-red/mean_shift", None).path, with_words=False)
    assert not shown.probe and shown.cosines


def test_the_accuracy_of_a_probe_of_other_sentences_is_not_the_vector_s(own_cache: Path) -> None:
    settings = {"held_out_balanced_accuracy": {"0": 0.75}}
    mine = store.save(vectors(concept="mine"))
    for sentences, expected in (("0", {0: 0.75}), ("1", {})):
        store.save(vectors(concept="mine", method="linear_probe", settings=settings, sentences_sha256=sentences))
        shown = describe_vector(mine, with_words=False)
        assert shown.probe == expected and any("no probe accuracy" in note for note in shown.notes) is not bool(
            expected
        )


def test_vectors_of_different_width_are_not_compared() -> None:
    with pytest.raises(UserError, match="has width 48, .* 32: they cannot be compared"):
        cosine_by_layer(vectors(4, 48), vectors(4, 32))
    with pytest.raises(UserError, match="no layer in common"):
        cosine_by_layer(vectors(1, 8), SteeringVectors({3: np.ones(8, np.float32)}, {}))


@pytest.mark.parametrize(("other", "noted"), [("a", False), ("b", True), (None, False)])
def test_cosines_of_two_models_vectors_are_said_to_mean_nothing(other: str | None, noted: bool) -> None:
    one, two = (vectors(2, 8, model_path=f"m{sha}", weights_sha256=sha) for sha in ("a", other))
    lines = list(comparison_lines(one, two))
    assert lines[0].startswith("NOTE: these are of different models, 'ma' (weights a) and 'mb'") is noted
    assert len(lines) == 3 + noted


def test_layers_of_only_one_of_two_vectors_are_listed() -> None:
    some = SteeringVectors(
        {1: np.ones(8, np.float32), 3: np.ones(8, np.float32)}, {"model": "b", "concept": "c", "method": "sae"}
    )
    rows = list(comparison_lines(some, vectors(5, 8)))
    assert len(rows) == 4 and rows[-1] == "only the second, some-backbone/spatial/mean_shift, has the layers 0, 2, 4"
    assert list(comparison_lines(vectors(2, 8), some))[-2].endswith("mean_shift, has the layer 0")
    assert len(list(comparison_lines(some, some))) == 3
