"""What a user looks at: concepts with tokens, vectors with norms, cosines and words; controls by name; first use."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from lmms_steer import SteeringSpec, SteeringVectors, UserError, concepts
from lmms_steer.cli import app
from lmms_steer.concepts import Pair
from lmms_steer.extraction.first_use import check_vectors, extract_missing
from lmms_steer.extraction.tokens import SentenceTokens, TokenSpan
from lmms_steer.inspection import prompt as tokens
from lmms_steer.inspection.concept import mark_anchors, show_concept
from lmms_steer.inspection.vector_figure import draw_vector
from lmms_steer.inspection.vectors import comparison_lines, cosine_by_layer, describe_vector, description_lines
from lmms_steer.steering.resolve import ModelFacts, resolve
from lmms_steer.tiny_world.checkpoints import weights_dir
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import backbone_of, sae_of, table
from tests.helpers.models import vectors

TINY = ModelFacts("tiny-paligemma2", 5, 96)


def concept_file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_concept_reads_the_same_from_yaml_jsonl_and_csv(tmp_path: Path) -> None:
    pairs = (Pair("left", "It is left, of the door."), Pair("on", "It is on it."))
    other = (Pair("red", "It is red."),)
    yaml = (
        'name: mine\npairs:\n - left: "It is left, of the door."\n - "on": It is on it.\n'
        "contrast:\n - red: It is red.\n"
    )
    jsonl = (
        '{"anchor": "left", "sentence": "It is left, of the door."}\n\n{"anchor": "on", "sentence": "It is on it."}\n'
        '{"anchor": "red", "sentence": "It is red.", "contrast": true}\n'
    )
    csv = 'anchor,sentence,contrast\nleft,"It is left, of the door.",\non,It is on it.,0\nred,It is red.,1\n'
    for suffix, text in (("yaml", yaml), ("jsonl", jsonl), ("csv", csv)):
        read = concepts.load(concept_file(tmp_path / f"mine.{suffix}", text))
        assert (read.name, read.pairs, read.contrast) == ("mine", pairs, other)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", '{"anchor": "a", "sentence": "a b"}\n{"anchor": "a"', "line 2: not JSON"),
        ("a.jsonl", '{"anchor": "a"}', "line 1: expected an anchor and a sentence, got 'a' and None"),
        ("a.jsonl", '["a", "b"]', "line 1: expected {"),
        ("a.csv", "word,text\na,b\n", "line 1: expected the columns anchor,sentence"),
        ("a.csv", "anchor,sentence\non,it is on\nleft,left, right\n", "line 3: the number of columns differs"),
        ("a.csv", "anchor,sentence,contrast\non,it is on,maybe\n", "line 2: contrast='maybe'"),
        ("a.csv", "anchor,sentence\n", "has no pair"),
        ("a b.csv", "anchor,sentence\non,it is on\n", "names a folder"),
        ("a.yaml", "name: a\npairs:\n  - on: it is on\n - x", "line 4"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, text: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        concepts.load(concept_file(tmp_path / name, text))
    assert expected in str(caught.value) and name in str(caught.value)


def test_eight_concepts_ship_with_twenty_sentences_or_more_and_varied_anchors() -> None:
    names = "spatial counting attribute entity action temporal comparison negation".split()
    for name in names:
        concept = concepts.load(name)
        assert len({pair.sentence for pair in concept.pairs}) == len(concept.pairs) >= 20
        assert len({pair.anchor for pair in concept.pairs}) >= 8


def test_a_concept_is_shown_with_its_anchors_as_the_tokenizer_splits_them() -> None:
    assert mark_anchors(Pair("left", "Left of it, left.")) == "[Left] of it, [left]."
    assert "does not occur" in mark_anchors(Pair("up", "The lamp is left."))
    shown = list(show_concept("spatial", "tiny-gemma2"))
    assert "  The lamp stands to the [left] of the sofa." in shown and shown[-1] == "every anchor is one token"

    parted = SentenceTokens(
        anchors=((TokenSpan(0, 2, 6), (1, 2)),), spans=((0, 2), (2, 4), (4, 6), (6, 8)), unknown=(2,)
    )
    assert mark_anchors(Pair("left", "a left b"), parted, "<unk>") == "a [le|ft=<unk>] b"


def shown_and_extracted(path: Path, text: str) -> tuple[Result, Result]:
    file = str(concept_file(path / "mine.yaml", text))
    run = CliRunner().invoke
    return (
        run(app, ["concepts", "show", file, "--backbone", "tiny-gemma2"]),
        run(app, ["extract", "--concept", file, "--backbone", "tiny-gemma2", "--store", str(path / "store")]),
    )


def test_anchors_that_the_tokenizer_does_not_know_are_shown_with_extract_s_own_warning(tmp_path: Path) -> None:
    shown, extracted = shown_and_extracted(
        tmp_path, "name: mine\npairs:\n - bright: A bright zebra.\n - Dim: The lamp is dim.\n"
    )
    warning = (
        "WARNING: mine: tiny-gemma2 does not know zebra, dim;"
        " among them these anchors, which it cannot distinguish: dim"
    )
    assert warning in shown.output.splitlines() and warning in extracted.output.splitlines()
    assert "[dim=<unk>]" in shown.output and "2 sentences, 2 anchors" in shown.output
    assert "every anchor is one token" not in shown.output and shown.exit_code == extracted.exit_code == 0


def test_too_few_known_anchors_are_a_warning(tmp_path: Path) -> None:
    def text(known: int) -> str:
        rows = [" - left: It is left of the door.\n"] * known + [" - dim: The lamp is dim.\n"] * 3
        return f"name: mine\npairs:\n{''.join(rows)}"

    few = "WARNING: mine: {} that tiny-gemma2 knows, fewer than 10: "
    for known, counted in ((9, "9 anchors"), (1, "1 anchor")):
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        for done in shown_and_extracted(tmp_path, text(known)):
            assert few.format(counted) in done.output and done.exit_code == 0
    shutil.rmtree(tmp_path / "store")
    for done in shown_and_extracted(tmp_path, text(10)):
        assert "fewer than" not in done.output and "WARNING: mine: tiny-gemma2 does not know dim" in done.output


def test_one_is_no_plural(tmp_path: Path) -> None:
    file = str(concept_file(tmp_path / "mine.yaml", "name: mine\npairs:\n - left: it left\n"))
    done = CliRunner().invoke(app, ["extract", "--concept", file, "--backbone", "tiny-gemma2"])
    assert "tiny-gemma2/mine/mean_shift: 1 anchor, 1 control, 5 layers x 96 -> " in done.output
    listed = CliRunner().invoke(app, ["vectors", "list", "mine"]).output
    assert re.search(r"5 layers x 96 +1 anchor\n\n1 vector; yours", listed)


def test_an_anchor_that_is_not_in_its_sentence_is_not_counted(tmp_path: Path) -> None:
    shown, extracted = shown_and_extracted(
        tmp_path, "name: mine\npairs:\n - left: It is left of it.\n - up: The lamp is left.\n"
    )
    skipped = "skipped, mine sentence 2: 'up' is not in 'The lamp is left.'"
    assert skipped in shown.output.splitlines() and skipped in extracted.output.splitlines()
    assert "2 sentences, 1 anchor\n" in shown.output and "every anchor" not in shown.output
    assert shown.exit_code == extracted.exit_code == 0


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (" - up: The lamp is left.\n", "no sentence contains its anchor"),
        (" - left: left\n", "contain only anchors"),
        (" - left: It is left.\ncontrast:\n - up: It is left.\n", "no contrast sentence contains its anchor"),
    ],
)
def test_what_extract_would_refuse_is_refused_after_the_sentences(tmp_path: Path, pairs: str, expected: str) -> None:
    shown, extracted = shown_and_extracted(tmp_path, f"name: mine\npairs:\n{pairs}")
    assert isinstance(shown.exception, UserError) and expected in str(shown.exception)
    assert str(shown.exception) == str(extracted.exception) and "1 sentence, " in shown.output


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
    assert shown.words[2][0] == [tokenizer.decode([i]).strip() for i in logits.topk(8).indices]
    assert "red" in shown.words[2][0]
    assert shown.probe == {
        int(k): v
        for k, v in SteeringVectors.load(store.find("tiny-gemma2/colour-red/linear_probe", None).path)
        .provenance["settings"]["held_out_balanced_accuracy"]
        .items()
    }
    text = "\n".join(description_lines(shown))
    assert "sentences_sha256" in text and "words that the direction promotes" in text
    assert "probe: balanced accuracy" in text and "not fitted on (0.5 is chance)" in text
    assert draw_vector(shown, tmp_path / "v.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(UserError, match="ends in .png"):
        draw_vector(shown, tmp_path / "v.gif")


def test_a_vector_whose_model_is_not_here_is_shown_without_words() -> None:
    path = store.save(vectors(model="no-such-model", model_id="no/such-model"))
    shown = describe_vector(path)
    assert not shown.words and any("no words: cannot load" in note for note in shown.notes)
    assert "probe: balanced accuracy" not in "\n".join(description_lines(shown)), (
        "a column of dashes is not explained by numbers"
    )


def test_a_damaged_probe_does_not_keep_another_vector_from_being_shown(own_cache: Path) -> None:
    damaged = store.user_store() / "tiny-gemma2" / "colour-red" / "linear_probe.safetensors"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half")
    shown = describe_vector(store.find("tiny-gemma2/colour-red/mean_shift", None).path, with_words=False)
    assert not shown.probe and shown.cosines


def test_vectors_of_different_width_are_not_compared() -> None:
    with pytest.raises(UserError, match="has width 48, .* 32: they cannot be compared"):
        cosine_by_layer(vectors(4, 48), vectors(4, 32))
    with pytest.raises(UserError, match="no layer in common"):
        cosine_by_layer(vectors(1, 8), SteeringVectors({3: np.ones(8)}, {}))


def test_layers_that_only_one_of_two_vectors_has_are_told() -> None:
    some = SteeringVectors({1: np.ones(8), 3: np.ones(8)}, {"model": "b", "concept": "c", "method": "sae"})
    rows = list(comparison_lines(some, vectors(5, 8)))
    assert len(rows) == 4 and rows[-1] == "only the second, some-backbone/spatial/mean_shift, has the layers 0, 2, 4"
    assert list(comparison_lines(vectors(2, 8), some))[-2].endswith("mean_shift, has the layer 0")
    assert len(list(comparison_lines(some, some))) == 3


@pytest.mark.parametrize("spec", ["", "vector=v,layer=1,alpha=1,tokens=image"])
def test_a_prompt_is_shown_with_what_is_likeliest_once_where_nothing_is_steered(spec: str) -> None:
    likely = [("yes", 0.75), ("no", 0.25)]
    seen = tokens.PromptInspection(
        spec, 1, ["is", "it"], [False] * 2, [bool(spec)] * 2, [1.0] * 2, [], [], likely, likely
    )
    rows = list(tokens.inspection_lines(seen))[-3:]
    if spec:
        assert rows[0].split() == ["unsteered", "steered"] and rows[1].count("'yes'") == 2
    else:
        assert rows == ["unsteered", " 0.750  'yes'", " 0.250  'no'"]


def control(text: str) -> SteeringVectors:
    line = f"vector=spatial,layer=1,alpha=1,tokens=image,control={text}"
    assert str(SteeringSpec.parse(line)) == line
    return resolve(SteeringSpec.parse(line), TINY).vectors[0]


def test_one_key_puts_a_control_in_the_vector_s_place() -> None:
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


def test_what_no_store_has_is_extracted_on_first_use_and_kept() -> None:
    spec = SteeringSpec.parse("vector=spatial/linear_probe,layer=1,alpha=1,tokens=image,control=shuffled")
    told = list(extract_missing(spec, "tiny-paligemma2"))
    assert "extracting tiny-gemma2/spatial/linear_probe-shuffled" in told[0]
    assert resolve(spec, TINY).vectors[0].provenance["settings"]["control"] == "shuffled"
    assert not list(extract_missing(spec, "tiny-paligemma2"))
    for line in ("vector=my-own,layer=1", "vector=spatial/no_method", "vector=./x.safetensors"):
        assert not list(extract_missing(SteeringSpec.parse(line), "tiny-paligemma2"))
    assert not list(extract_missing(SteeringSpec.parse("vector=spatial"), "unknown/model"))


def test_a_vector_is_refused_by_name_unless_it_is_stored_or_would_be_made() -> None:
    for name in ("spatial", "spatial/pca-shuffled", "tiny-gemma2/colour-red", "counting/linear_probe-random"):
        check_vectors(SteeringSpec.parse(f"vector={name}"), "tiny-paligemma2")
    for name, expected in (
        ("spatail", "unknown vector 'spatail': did you mean 'spatial'"),
        ("spatial/no_method", "unknown vector 'spatial/no_method'"),
        ("./none.safetensors", "no such vector file"),
    ):
        with pytest.raises(UserError, match=expected):
            check_vectors(SteeringSpec.parse(f"vector={name}"), "tiny-paligemma2")
    with pytest.raises(UserError, match="^tiny-paligema2: vector=spatial leaves out the text backbone"):
        check_vectors(SteeringSpec.parse("vector=spatial"), "tiny-paligema2")


def test_two_processes_that_want_the_same_vector_make_it_once() -> None:
    code = (
        "from lmms_steer import SteeringSpec; from lmms_steer.extraction.first_use import extract_missing;"
        "print(len(list(extract_missing(SteeringSpec.parse('vector=spatial/pca-random'), 'tiny-paligemma2'))))"
    )
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = sorted(int(process.communicate()[0]) for process in both)
    assert told == [0, 2]


def test_the_table_names_a_backbone_and_saes_that_sae_lens_has() -> None:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    expected = {
        "google/paligemma2-3b-mix-448": "gemma-2-2b",
        "google/paligemma-3b-mix-224": "gemma-2b",
        "HuggingFaceM4/Idefics3-8B-Llama3": "Llama-3.1-8B-Instruct",
        "/models/Qwen3-VL-4B-Instruct": "Qwen3-4B",
        "llava-hf/llava-1.5-7b-hf": "vicuna-7b-v1.5",
    }
    assert {model: backbone_of(model) for model in expected} == expected
    assert backbone_of("google/gemma-2-2b") == "gemma-2-2b", "a backbone is its own"
    assert backbone_of("somebody/a-model") is None and sae_of("Qwen3-4B") is None
    releases = get_pretrained_saes_directory()
    for backbone in set(table().values()) - {"tiny-gemma2"}:
        sae = sae_of(backbone)
        if sae is not None:
            release, _, template = sae.partition(":")
            assert any(template.format(layer=layer) in releases[release].saes_map for layer in range(60)), sae
