"""Each method against a reference in plain numpy, on activations of the trained backbone."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import BertPreTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from lmms_steer import UserError, concepts, load_vectors
from lmms_steer.concepts import Concept, Pair
from lmms_steer.extraction.activations import Activations, read_activations
from lmms_steer.extraction.extract import Backbone
from lmms_steer.extraction.methods import ExtractionJob, ExtractionSettings
from lmms_steer.extraction.methods.linear_probe import BATCH, EPOCHS, LEARNING_RATE, linear_probe
from lmms_steer.extraction.sae_contexts import neutral_concept
from lmms_steer.extraction.sae_judge import JudgeQuestion
from lmms_steer.extraction.sae_source import Sae, SaeSource
from lmms_steer.extraction.sae_verdicts import Verdict
from lmms_steer.extraction.shuffled_labels import shuffle_labels
from lmms_steer.extraction.tokens import TokenSpan, classify_tokens, tokenize
from lmms_steer.steering.gates import probe_numbers
from lmms_steer.tiny_world.checkpoints import TINY_SAE, weights_dir
from lmms_steer.vectors import store

UNCHECKED = ExtractionSettings(judge="none")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone("tiny-gemma2")


@pytest.fixture(scope="module")
def spatial(backbone: Backbone) -> Activations:
    return backbone.read(concepts.load("spatial"))


def unit(v: Any) -> Any:
    return v / np.linalg.norm(v)


@pytest.mark.slow
def test_the_probe_equals_logistic_regression_by_hand(backbone: Backbone, spatial: Activations) -> None:
    vectors = backbone.vectors(concepts.load("spatial"), "linear_probe", spatial)
    rows = np.concatenate([spatial.anchors, spatial.controls]).astype(np.float64)
    labels = np.repeat([1.0, 0.0], [len(spatial.anchors), len(spatial.controls)])
    order = np.random.default_rng(0).permutation(len(rows))
    for layer in vectors:
        centred = rows[order, layer] - rows[:, layer].mean(0)
        axes = np.linalg.svd(centred, full_matrices=False)[2][:12]  # 24 sentences
        reduced, weights = centred @ axes.T, np.zeros(12)
        for _ in range(EPOCHS):
            for row, label in zip(reduced, labels[order], strict=True):
                weights += LEARNING_RATE / BATCH * (label - 1 / (1 + np.exp(-row @ weights))) * row
        assert np.abs(vectors[layer] - unit(weights @ axes)).max() < 1e-5
        # the gate `probe` gets the same probabilities from what is stored, and from what ships
        for stored in (vectors, load_vectors("tiny-gemma2/spatial/linear_probe")):
            length, bias = probe_numbers(stored, layer)
            chances = 1 / (1 + np.exp(-(length * rows[:, layer] @ stored[layer].astype(np.float64) + bias)))
            assert np.abs(chances[order] - 1 / (1 + np.exp(-reduced @ weights))).max() < 1e-4
    settings = vectors.provenance["settings"]
    assert min(settings["held_out_balanced_accuracy"].values()) > 0.75
    assert set(settings["held_out_accuracy"]) == set("01234") and settings["majority"] == round(206 / 230, 4)


def test_every_probe_that_ships_can_be_a_gate_at_every_layer() -> None:
    probes = [entry.name for entry in store.entries() if entry.origin == "shipped" and "linear_probe" in entry.name]
    assert len(probes) == 16
    for name in probes:
        vectors = load_vectors(name)
        assert all(probe_numbers(vectors, layer)[0] > 0 for layer in vectors), name


def test_no_sentence_is_on_both_sides_of_the_probes_cross_validation() -> None:
    # every sentence has a mark of its own, on the one or the other side of it its anchors: only a leak could tell which
    generator = np.random.default_rng(0)
    marks = np.repeat(generator.standard_normal((30, 1, 200)) * 5, 4, axis=0)
    sides = np.repeat(generator.choice((-1.0, 1.0), 30), 4)[:, None, None]
    noise = generator.standard_normal((2, 120, 1, 200)) * 0.1
    places = tuple(TokenSpan(i // 4, 0, 1) for i in range(120))
    rows = [(side * sides * marks + n).astype(np.float32) for side, n in zip((1, -1), noise, strict=True)]
    made = Activations(rows[0], rows[1], places, places, ("x",) * 30)
    job = ExtractionJob("m", "m", 1, 200, Concept("c", "", ()), lambda concept: made)
    assert abs(linear_probe(made, job).settings["held_out_balanced_accuracy"]["0"] - 0.5) < 0.2


def test_pca_is_the_main_axis_of_the_differences_and_points_to_the_anchors(
    backbone: Backbone, spatial: Activations
) -> None:
    vectors = backbone.vectors(concepts.load("spatial"), "pca", spatial)
    for layer in vectors:
        rows = []
        for anchor, number in zip(spatial.anchors[:, layer], spatial.anchor_sentence, strict=True):
            rows.append(anchor - spatial.controls[spatial.control_sentence == number, layer].mean(0))
        both = np.concatenate([rows, -np.array(rows)]).astype(np.float64)
        values, axes = np.linalg.eigh(both.T @ both)
        axis = axes[:, np.argmax(values)]
        axis *= np.sign(np.mean(rows, 0) @ axis)
        assert np.abs(vectors[layer] - axis).max() < 1e-5


def test_the_sae_vector_equals_the_paper_s_recipe_by_hand(backbone: Backbone, spatial: Activations) -> None:
    vectors = backbone.vectors(concepts.load("spatial"), "sae", spatial, UNCHECKED)
    assert vectors.layers == (1, 3)
    for layer in vectors:
        sae = SAE.load_from_disk(weights_dir(TINY_SAE) / f"layer_{layer}", dtype="float32")
        w_enc, b_enc, threshold, w_dec, b_dec = (
            getattr(sae, name).detach().numpy().astype(np.float64)
            for name in ("W_enc", "b_enc", "threshold", "W_dec", "b_dec")
        )
        before = (spatial.anchors[:, layer] - b_dec) @ w_enc + b_enc
        fired = np.where(before > threshold, before, 0.0)
        listed: dict[int, list[float]] = {}
        for row in fired:
            for rank, feature in enumerate(sorted(range(len(row)), key=lambda f: (-row[f], f))[:20], start=1):
                if row[feature] > 0:
                    listed.setdefault(feature, []).append(1 - (rank - 1) / 20)
        often = {f: sum(w) for f, w in listed.items() if len(w) >= 2}
        chosen = sorted(often, key=lambda f: (-often[f], f))[:16]
        features = vectors.provenance["settings"]["layers"][str(layer)]["features"]
        assert [f["feature"] for f in features] == chosen
        assert np.abs(vectors[layer] - unit(np.mean([unit(w_dec[f]) for f in chosen], 0))).max() < 1e-5


def test_paper_exact_reads_a_layer_lower_with_thresholds_and_lists_silent_features(
    backbone: Backbone, spatial: Activations
) -> None:
    exact = backbone.vectors(concepts.load("spatial"), "sae", spatial, replace(UNCHECKED, paper_exact=True))
    sae = SAE.load_from_disk(weights_dir(TINY_SAE) / "layer_3", dtype="float32")
    w_enc, b_enc, threshold, b_dec = (
        getattr(sae, name).detach().numpy().astype(np.float64) for name in ("W_enc", "b_enc", "threshold", "b_dec")
    )
    before = (spatial.anchors[:, 2] - b_dec) @ w_enc + b_enc

    def selected(fired: Any) -> list[int]:
        listed: dict[int, list[float]] = {}
        for row in fired:
            for rank, feature in enumerate(sorted(range(len(row)), key=lambda f: (-row[f], f))[:20]):
                listed.setdefault(feature, []).append(1 - rank / 20)
        often = {feature: sum(weights) for feature, weights in listed.items() if len(weights) >= 2}
        return sorted(often, key=lambda f: (-round(often[f], 6), f))[:16]

    features = [f["feature"] for f in exact.provenance["settings"]["layers"]["3"]["features"]]
    with_thresholds = np.where(before > threshold, before, 0.0)
    assert features == selected(with_thresholds)
    assert features != selected(np.maximum(before, 0.0)), "the models that intervene have no thresholds, selection has"
    assert (with_thresholds[:, features].max(0) == 0).any(), "a feature that never fires"
    assert exact.sha256 != backbone.vectors(concepts.load("spatial"), "sae", spatial, UNCHECKED).sha256


def test_only_the_wanted_layers_are_made_and_only_their_saes_are_loaded(
    backbone: Backbone, spatial: Activations, monkeypatch: pytest.MonkeyPatch
) -> None:
    concept, true, loaded = concepts.load("spatial"), SaeSource.load, list[int]()

    def load(source: SaeSource, layer: int) -> Sae:
        loaded.append(layer)
        return true(source, layer)

    whole = {method: backbone.vectors(concept, method, spatial, UNCHECKED) for method in ("sae", "mean_shift")}
    monkeypatch.setattr(SaeSource, "load", load)
    for method, vectors in whole.items():
        made = backbone.vectors(concept, method, spatial, replace(UNCHECKED, layers=(2, 3)))
        assert made.layers == ((3,) if method == "sae" else (2, 3))
        assert all(np.array_equal(made[layer], vectors[layer]) for layer in made)
    assert backbone.vectors(concept, "sae_denoised", spatial, replace(UNCHECKED, layers=(3,))).layers == (3,)
    assert loaded == [3, 3]
    with pytest.raises(UserError, match="has no SAE for any of the layers 2 of tiny-gemma2"):
        backbone.vectors(concept, "sae", spatial, replace(UNCHECKED, layers=(2,)))
    with pytest.raises(UserError, match="--layers 3, 7: tiny-gemma2 has the layers 0-4"):
        backbone.vectors(concept, "mean_shift", spatial, replace(UNCHECKED, layers=(3, 7)))


def test_a_layer_without_a_kept_feature_is_left_out_and_named(
    backbone: Backbone, spatial: Activations, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(question: JudgeQuestion) -> Verdict:
        return Verdict("layer 3" in question.feature, "r", "judge-1")

    monkeypatch.setattr("lmms_steer.extraction.sae_check.get_judge", lambda name: judge)
    made = backbone.extract(concepts.load("spatial"), "sae", spatial)
    assert made.vectors.layers == (3,)
    assert "spatial: no SAE feature is left at layer 1" in made.notes


def test_denoised_is_close_to_the_mean_shift_but_not_equal(backbone: Backbone, spatial: Activations) -> None:
    concept = concepts.load("spatial")
    vectors, shift = (backbone.vectors(concept, m, spatial) for m in ("sae_denoised", "mean_shift"))
    for layer in vectors:
        cosine = unit(vectors[layer]) @ unit(shift[layer])
        assert 0.7 < cosine < 0.9999
        assert 0.5 < np.linalg.norm(vectors[layer]) / np.linalg.norm(shift[layer]) < 1.5


def test_features_of_activations_that_are_scaled_by_token_rebuild_no_shift(
    backbone: Backbone, spatial: Activations, tmp_path: Path
) -> None:
    folder = shutil.copytree(weights_dir(TINY_SAE), tmp_path / "saes")
    for config in folder.glob("*/cfg.json"):
        content = config.read_text()
        assert '"normalize_activations": "none"' in content
        config.write_text(content.replace('"normalize_activations": "none"', '"normalize_activations": "layer_norm"'))
    settings = ExtractionSettings(sae=str(folder), judge="none")
    concept = concepts.load("spatial")
    with pytest.raises(UserError, match="saes/layer_1@.* reads activations after layer_norm: .* use --method sae"):
        backbone.vectors(concept, "sae_denoised", spatial, settings)
    assert set(backbone.vectors(concept, "sae", spatial, settings)) == {1, 3}, "of unit norm, whatever the units"


def test_neutral_sentences_are_read_by_a_tokenizer_without_bos(backbone: Backbone, tmp_path: Path) -> None:
    file = tmp_path / "neutral.txt"
    file.write_text("the cup is red\n\nsome ball is blue .\n")
    settings = ExtractionSettings(neutral=file)
    job = ExtractionJob("m", "m", 5, 96, concepts.load("spatial"), backbone.read, settings)
    tokenizer = AutoTokenizer.from_pretrained(weights_dir("tiny-paligemma2"))
    tokenizer.bos_token = None
    neutral = neutral_concept(job)
    assert [pair.sentence for pair in neutral.pairs] == ["the cup is red", "some ball is blue ."]
    read = read_activations(backbone.model, tokenizer, neutral)
    assert len(read.anchors) + len(read.controls) == 3 + 4, "all tokens but the first"


def test_an_anchor_that_comes_first_is_left_out_whole_with_its_sentence() -> None:
    # WordPiece without a BOS, as in Qwen's tokenizers; "leftmost" is left + ##most
    words = "[UNK] left ##most of the cup is door a there .".split()
    model = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    model.normalizer, model.pre_tokenizer = Lowercase(), BertPreTokenizer()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, pad_token="[UNK]")
    found = [
        classify_tokens(Pair(anchor, sentence), 0, tokenize(tokenizer, [sentence]), 0, None)
        for anchor, sentence in (
            ("leftmost", "Leftmost of the cup is the door."),
            ("left", "Left is the cup."),
            ("left", "Left is left of the cup."),
            ("leftmost", "The cup is leftmost."),
        )
    ]
    assert [[positions for _, positions in one.anchors] for one in found] == [[], [], [(2,)], [(3, 4)]]
    assert [[place for _, place in one.others] for one in found] == [[], [], [1, 3, 4, 5, 6], [1, 2, 5]]
    assert [len(one.skipped) for one in found] == [1, 1, 1, 0]


@pytest.mark.slow
def test_same_inputs_same_bytes_for_every_method(backbone: Backbone) -> None:
    concept = concepts.load("counting")
    for method in ("mean_shift", "linear_probe", "pca", "sae", "sae_denoised", "random", "shuffled", "sae-random"):
        one, other = (backbone.vectors(concept, method, backbone.read(concept, size), UNCHECKED) for size in (16, 16))
        assert one.sha256 == other.sha256, method


@pytest.mark.parametrize("seed", range(3))
def test_a_shuffled_control_that_is_far_from_orthogonal_is_noted(
    backbone: Backbone, spatial: Activations, seed: int
) -> None:
    concept, settings = concepts.load("spatial"), ExtractionSettings(seed=seed)
    true = backbone.vectors(concept, "mean_shift", spatial, settings)
    made = backbone.extract(concept, "shuffled", spatial, settings, log_warnings=False)
    control = made.vectors
    cosines = [float(control[k] @ true[k]) / float(np.linalg.norm(control[k]) * np.linalg.norm(true[k])) for k in true]
    largest = max(cosines, key=abs)
    noted = [note for note in made.notes if f"its cosine with {true.name} is {largest:+.2f} at layer" in note]
    assert len(noted) == (abs(largest) > 0.3)


def test_controls_keep_the_norms_and_lose_the_meaning(backbone: Backbone, spatial: Activations) -> None:
    concept = concepts.load("spatial")
    true = backbone.vectors(concept, "mean_shift", spatial)
    for control in ("random", "shuffled", "wrong_concept"):
        vectors = backbone.vectors(concept, control, spatial)
        assert vectors.provenance["settings"]["control"] == control and vectors.provenance["method"] == control
        for layer in true:
            assert np.linalg.norm(vectors[layer]) == pytest.approx(np.linalg.norm(true[layer]), rel=1e-4)
            assert unit(vectors[layer]) @ unit(true[layer]) < 0.6
    other = backbone.vectors(concept, "wrong_concept", spatial)
    named = other.provenance["settings"]["concept"]
    assert named not in ("spatial", None)
    expected = backbone.vectors(concepts.load(named), "mean_shift", backbone.read(concepts.load(named)))
    assert unit(other[2]) @ unit(expected[2]) == pytest.approx(1, abs=1e-5)


def test_shuffling_permutes_labels_within_sentences(spatial: Activations) -> None:
    mixed = shuffle_labels(spatial, seed=3)
    assert np.array_equal(np.bincount(mixed.anchor_sentence), np.bincount(spatial.anchor_sentence))
    before = {tuple(row) for row in np.concatenate([spatial.anchors, spatial.controls])[:, 0]}
    after = {tuple(row) for row in np.concatenate([mixed.anchors, mixed.controls])[:, 0]}
    assert before == after
    assert not np.array_equal(mixed.anchors, spatial.anchors)


@pytest.mark.slow
def test_vectors_from_an_mllm_itself_by_sentences_and_by_images(tmp_path: Path) -> None:
    from PIL import Image

    own = Backbone("tiny-paligemma2")
    concept = concepts.load("spatial")
    from_text = own.vectors(concept, "mean_shift", own.read(concept))
    backbones = Backbone("tiny-gemma2")
    theirs = backbones.vectors(concept, "mean_shift", backbones.read(concept))
    assert from_text.provenance["model"] == "tiny-paligemma2"
    assert min(unit(from_text[layer]) @ unit(theirs[layer]) for layer in theirs) > 0.99
    lines = []
    for i in range(4):
        Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / f"{i}.png")
        lines.append(
            f'{{"image": "{i}.png", "prompt": "answer en where is it ?", "contrast": "answer en what colour ?"}}'
        )
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    concept, activations = own.read_image_pairs(tmp_path / "q.jsonl", "place", batch_size=3)
    assert activations.anchors.shape == activations.controls.shape == (4, 5, 96)
    assert np.abs(own.read_image_pairs(tmp_path / "q.jsonl", "place", 1)[1].anchors - activations.anchors).max() < 1e-4
    vectors = own.vectors(concept, "pca", activations)
    assert vectors.name == "tiny-paligemma2/place/pca"
    with pytest.raises(UserError, match="tiny-gemma2 is a text model"):
        backbones.read_image_pairs(tmp_path / "q.jsonl", "place")
    (tmp_path / "q.jsonl").write_text('{"image": "9.png", "prompt": "a", "contrast": "b"}')
    with pytest.raises(UserError, match="line 1: no such image"):
        own.read_image_pairs(tmp_path / "q.jsonl", "place")


def test_a_single_sentence_makes_a_probe_but_no_held_out_accuracy(backbone: Backbone) -> None:
    concept = Concept("mine", "", (Pair("left", "The lamp is left of the door."),))
    made = backbone.extract(concept, "linear_probe", backbone.read(concept))
    assert "too few sentences" in made.notes[0]
    assert made.vectors.provenance["settings"]["held_out_accuracy"] == {}


def saved(folder: Path, layer: int, width: int = 96, hook: str | None = None, features: int = 8) -> Path:
    name = hook or f"blocks.{layer}.hook_resid_post"
    config = JumpReLUSAEConfig(d_in=width, d_sae=features, metadata=SAEMetadata(hook_name=name))
    sae = JumpReLUSAE(config)
    sae.save_model(folder / f"layer_{layer}")
    return folder


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ({"layer": 7}, "go up to layer 7, tiny-gemma2 has the layers 0-4: they were made for another model"),
        ({"layer": 2, "width": 64}, "has width 64, but tiny-gemma2's hidden size is 96"),
        ({"layer": 2, "hook": "blocks.2.attn.hook_z"}, "reads blocks.2.attn.hook_z, not a layer's output"),
        ({"layer": 0, "hook": "blocks.0.hook_resid_pre"}, "reads blocks.0.hook_resid_pre, not a layer's output"),
        ({"layer": 2, "hook": "blocks.2.hook_mlp_out"}, "reads blocks.2.hook_mlp_out, not a layer's output"),
    ],
)
def test_an_sae_that_does_not_fit_is_refused(
    backbone: Backbone, spatial: Activations, tmp_path: Path, made: dict[str, Any], expected: str
) -> None:
    settings = replace(UNCHECKED, sae=str(saved(tmp_path / "saes", **made)))
    with pytest.raises(UserError, match=expected):
        backbone.vectors(concepts.load("spatial"), "sae", spatial, settings)


@pytest.mark.slow
def test_an_unknown_sae_and_a_backbone_without_one_are_refused(backbone: Backbone, spatial: Activations) -> None:
    concept = concepts.load("spatial")
    with pytest.raises(UserError, match="neither a folder nor a release of sae-lens"):
        backbone.vectors(concept, "sae", spatial, replace(UNCHECKED, sae="no-such-release"))
    with pytest.raises(UserError, match=r"several SAEs for layer 0 .*name one, as in"):
        backbone.vectors(concept, "sae", spatial, replace(UNCHECKED, sae="gemma-scope-2b-pt-res-canonical"))
    # the l0 of an id is no layer, and no template has an SAE for each layer here
    with pytest.raises(UserError, match=r"--sae 'gemma-scope-2b-pt-res:layer_0/width_16k/average_l0_\d+'"):
        backbone.vectors(concept, "sae", spatial, replace(UNCHECKED, sae="gemma-scope-2b-pt-res"))
    for template in ("layer_{l}/width_16k/canonical", "layer_{"):
        with pytest.raises(UserError, match="has no SAE"):
            sae = f"gemma-scope-2b-pt-res-canonical:{template}"
            backbone.vectors(concept, "sae", spatial, replace(UNCHECKED, sae=sae))
