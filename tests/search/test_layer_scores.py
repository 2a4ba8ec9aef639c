"""Layer scores: each against a hand-written reference, and in cases where the right layer is planted."""

from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lmms_steer import UserError, concepts
from lmms_steer.cli import app
from lmms_steer.extraction.activations import Activations
from lmms_steer.extraction.tokens import TokenSpan
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.search.layer_scores import ConceptSentences, LayerContext, layer_scores, register_layer_score
from lmms_steer.search.layer_scores.patching import patched_answers
from lmms_steer.search.layer_scores.slope import best_gain
from lmms_steer.search.layers import layers
from lmms_steer.search.plan import Cell
from lmms_steer.search.questions import Question
from lmms_steer.search.scored_layers import ScoredLayers, best_layer
from lmms_steer.search.strategies import FilterContext
from lmms_steer.search.strategies.budget import filter_passes, keep_best_layers
from lmms_steer.vectors.steering_vectors import SteeringVectors
from lmms_steer.vectors.store import find
from tests.helpers.checkpoints import build, inputs
from tests.helpers.models import picture, vectors

LAYERS, WIDTH, SENTENCES, RIGHT = 4, 12, 16, 2


def planted() -> tuple[Activations, SteeringVectors]:
    """Anchors that differ from their sentence's controls along one axis at layer 2 and at random elsewhere."""
    rng = np.random.default_rng(0)
    axis = np.eye(WIDTH)[3]
    controls = rng.standard_normal((2 * SENTENCES, LAYERS, WIDTH))
    anchors = controls[::2] + rng.standard_normal((SENTENCES, LAYERS, WIDTH))
    anchors[:, RIGHT] = controls[::2, RIGHT] + 5 * axis
    spans = [TokenSpan(number, 0, 1) for number in range(SENTENCES)]
    both = tuple(span for span in spans for _ in range(2))
    rows = anchors.astype(np.float32), controls.astype(np.float32)
    texts = tuple(f"sentence {number}" for number in range(SENTENCES))
    made = SteeringVectors(dict.fromkeys(range(LAYERS), axis.astype(np.float32)), {})
    return Activations(*rows, tuple(spans), both, texts), made


def context_of(activations: Activations, made: SteeringVectors) -> LayerContext:
    sentences: Any = SimpleNamespace(activations=activations)
    return LayerContext(None, made, range(LAYERS), "image", sentences)


@pytest.mark.parametrize("name", ["probe", "agreement", "separation"])
def test_a_score_of_sentences_is_best_at_the_layer_that_has_the_concept(name: str) -> None:
    scores = layer_scores.get(name)(context_of(*planted()))
    assert best_layer(scores) == RIGHT
    assert sorted(scores.values())[-1] > sorted(scores.values())[-2] + 0.2, "and it stands out"


def test_agreement_and_separation_are_their_formulas() -> None:
    activations, made = planted()
    context = context_of(activations, made)
    for layer in range(LAYERS):
        differences = []
        for number in range(SENTENCES):
            own = [c for c, p in zip(activations.controls[:, layer], activations.control_places, strict=True)
                   if p.sentence == number]  # fmt: skip
            differences.append(activations.anchors[number, layer] - np.mean(own, axis=0))
        cosines = [
            float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            for i, a in enumerate(differences)
            for j, b in enumerate(differences)
            if i != j
        ]
        assert layer_scores.get("agreement")(context)[layer] == pytest.approx(np.mean(cosines), abs=1e-5)
        a, c = activations.anchors[:, layer, 3], activations.controls[:, layer, 3]
        expected = (np.mean(a) - np.mean(c)) / np.sqrt(np.var(a) / 2 + np.var(c) / 2)
        assert layer_scores.get("separation")(context)[layer] == pytest.approx(expected, rel=1e-4)


def test_the_gain_along_slopes_is_that_of_a_fine_sweep_of_alpha() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        margins, slopes = rng.standard_normal((2, 30))
        # a sweep that meets every interval between two crossings
        alphas = np.sort(np.abs(margins / slopes))
        between = [0.0, *((alphas[1:] + alphas[:-1]) / 2), 2 * alphas[-1]]
        swept = max(np.mean(margins + alpha * slopes > 0) - np.mean(margins > 0) for alpha in between)
        assert best_gain(margins, slopes) == pytest.approx(swept)
    assert best_gain(np.array([1.0, 2.0]), np.array([-1.0, -1.0])) == best_gain(np.ones(2), np.ones(2)) == 0


class TinyLm:
    """A tiny random model, with the methods of a wrapper that a layer score uses."""

    def __init__(self) -> None:
        self.model, self.processor = build("llava")
        self.tokenizer = self.processor.tokenizer

    def model_inputs(self, texts: Any, visuals: Any) -> dict[str, Any]:
        return inputs("llava", self.processor, list(texts), [images[0] for images in visuals])


def test_answers_follow_patched_pictures_until_the_layer_that_reads_them() -> None:
    lm = TinyLm()
    with torch.no_grad():
        for number, layer in enumerate(lm.model.get_decoder().layers):
            # text reads the pictures at one layer only, and strongly
            layer.self_attn.o_proj.weight.mul_(60.0 if number == RIGHT else 0.0)
    questions = [Question(i, f"where is the cat {i} ?", [picture(i)], (), 0, None) for i in range(24)]
    sentences = ConceptSentences(lm, vectors())
    for tokens, expected in (("image", [1.0, 1.0, 0.0, 0.0]), ("text", [0.0, 0.0, 1.0, 1.0]), ("both", [1.0] * 4)):
        context = LayerContext(lm, vectors(), range(4), tokens, sentences, questions, batch_size=10)
        assert list(layer_scores.get("patching")(context).values()) == expected, tokens
    same = [Question(i, f"where {i} ?", [picture(0)], (), 0, None) for i in range(3)]
    for wrong, message in (
        (same, "all questions show the same picture"),
        ([Question(0, "where ?", [], (), 0, None)], "it needs questions with images"),
    ):
        with pytest.raises(UserError, match=message):
            layer_scores.get("patching")(
                LayerContext(lm, vectors(), range(4), "image", ConceptSentences(lm, vectors()), wrong)
            )


def test_scores_of_a_seed_are_the_same_again() -> None:
    lm = TinyLm()
    with torch.no_grad():
        for layer in lm.model.get_decoder().layers:
            layer.self_attn.o_proj.weight.mul_(30.0)
    questions = [Question(i, f"where is the cat {i} ?", [picture(i)], (), 0, None) for i in range(12)]
    activations, made = planted()
    sentences: Any = SimpleNamespace(activations=activations)
    first, again = (
        {
            name: layer_scores.get(name)(
                LayerContext(lm, made, range(LAYERS), "image", sentences, questions, batch_size, seed=3)
            )
            for name in ("probe", "patching")
        }
        for batch_size in (16, 5)
    )
    assert first == again and len(set(first["patching"].values())) > 1, "in batches of another size too"


def test_the_passes_that_a_plan_counts_are_those_that_ranking_the_layers_makes(tmp_path: Path) -> None:
    lm, rows = TinyLm(), list[int]()
    with torch.no_grad():
        for layer in lm.model.get_decoder().layers:
            layer.self_attn.o_proj.weight.mul_(30.0)

    def count(_: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        # a pass of one token is of an answer
        rows.extend(hidden.shape[:1] if hidden.shape[1] > 1 else ())

    lm.model.get_decoder().layers[0].register_forward_pre_hook(count, with_kwargs=True)
    questions = [Question(i, f"where is the cat {i} ?", [picture(i)], (), 0, None) for i in range(6)]
    names = ("v", "v,control=random:0")
    cells = [Cell(*cell) for cell in product(names, range(LAYERS), (0.1, 0.3), ("image", "text"))]
    keep_best_layers(FilterContext(cells, lm, dict.fromkeys(names, vectors()), questions, 4, tmp_path), "patching")
    # of both targets, once for both vectors: what is written, two pictures, and each layer
    assert sum(rows) == filter_passes(cells, 6, "patching") == 2 * 6 * (3 + LAYERS)
    assert filter_passes(cells, 500, "slope") == 4 * 64 * 3 and filter_passes(cells, 500, "agreement") == 0


def test_patched_answers_are_those_of_a_forward_pass_written_by_hand() -> None:
    lm = TinyLm()
    with torch.no_grad():
        for layer in lm.model.get_decoder().layers:
            # so that the pictures decide the answers
            layer.self_attn.o_proj.weight.mul_(30.0)
    others = [Question(9, "how many ?", [picture(10 + i).resize((40, 24))], (), 0, None) for i in range(6)]
    pairs = [(Question(i, "where is it ?", [picture(i)], (), 0, None), other) for i, other in enumerate(others)]
    found = patched_answers(lm, pairs, [1], "image")
    for (own, other), row in zip(pairs, found, strict=True):
        resized = other.visuals[0].resize((32, 32))  # type: ignore[union-attr]
        one, two = (lm.model_inputs([own.text], [[image]]) for image in (own.visuals[0], resized))
        with torch.no_grad():
            states = [lm.model(**each, output_hidden_states=True).hidden_states[2] for each in (one, two)]
            image = (one["input_ids"] == lm.model.config.image_token_id)[0]
            hidden = states[0].clone()
            hidden[0, image] = states[1][0, image]
            decoder, places = lm.model.get_decoder(), torch.arange(hidden.shape[1])[None]
            causal = torch.full((hidden.shape[1],) * 2, -torch.inf).triu(1)[None, None]
            for layer in decoder.layers[2:]:
                hidden = layer(hidden, attention_mask=causal, position_ids=places,
                               position_embeddings=decoder.rotary_emb(hidden, places))  # fmt: skip
            patched = lm.model.get_output_embeddings()(decoder.norm(hidden))[0, -1].argmax()
            plain = [lm.model(**each).logits[0, -1].argmax() for each in (one, two)]
        assert row == [*map(int, plain), int(patched)]
    assert any(row[2] != row[0] for row in found) and any(row[2] != row[1] for row in found)


def test_a_lens_ranks_the_anchors_words_among_the_vocabulary() -> None:
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2")
    made = SteeringVectors.load(find("tiny-gemma2/counting/mean_shift", None).path)
    context = LayerContext(lm, made, (0, 2, 4), "image", ConceptSentences(lm, made))
    words = {pair.anchor.lower() for pair in concepts.load("counting").pairs}
    tokens = {lm.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words}
    count = len(lm.tokenizer)
    for layer, score in layer_scores.get("lens")(context).items():
        with torch.no_grad():
            hidden = lm.model.get_decoder().norm(torch.tensor(made[layer])[None])
            logits = (hidden @ lm.model.get_output_embeddings().weight.T)[0, :count]
        shares = [float((logits < logits[token]).sum()) / (count - 1) for token in tokens]
        assert score == pytest.approx(sum(shares) / len(shares), abs=2e-3) and 0.2 < score < 0.95


def test_the_table_marks_the_best_layer_and_none_where_all_are_equal() -> None:
    found = {"lens": {3: 0.25, 5: 0.5}, "probe": {3: 0.0, 5: 0.0}}
    lines = list(ScoredLayers("v", "m", "image", "", 0, (3, 5), found, {"slope": "it needs questions"}).lines())
    assert lines[0] == "v in m, image tokens" and lines[-1] == "slope: not computed: it needs questions"
    assert [line.split() for line in lines[1:4]] == [["layer", "lens", "probe"], ["3", "0.250", "0.000"],
                                                ["5", "0.500*", "0.000"]]  # fmt: skip


@pytest.mark.slow
def test_the_command_prints_and_draws_all_scores(tmp_path: Path) -> None:
    args = "layers --model steered_paligemma --model_args pretrained=tiny-paligemma2 --vector colour-red --layers 0-4"
    done = CliRunner().invoke(
        app, [*args.split(), "--task", "tiny_colour_select", "--limit", "24", "--plot", str(tmp_path / "layers.png")]
    )
    assert done.exit_code == 0, done.output
    assert "colour-red/mean_shift in tiny-paligemma2, image tokens; 24 questions of tiny_colour_select" in done.stdout
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line[:5].strip().isdecimal()}
    names = done.stdout.splitlines()[1].split()[1:]
    assert set(names) == {"agreement", "lens", "patching", "probe", "separation", "slope"} and set(rows) == set("01234")
    # what is known of this model: the picture has been read before layer 3
    follows = [float(rows[layer][names.index("patching")].rstrip("*")) for layer in "01234"]
    assert follows[0] > 0.8 and follows[4] == 0 and (tmp_path / "layers.png").stat().st_size > 10_000


def test_mistakes_are_refused_in_one_line() -> None:
    for more, message in (
        ({"scores": "prob"}, "unknown layer score 'prob': did you mean 'probe'"),
        ({"tokens": "image,text"}, "layers are scored for one token target"),
        ({"task": "tiny_spatial"}, "choose on held-out questions"),
        ({"scores": "slope"}, "slope: it needs questions: name a --task"),
        ({"scores": "lens", "concept": "spatail"}, "^unknown concept 'spatail': did you mean 'spatial'"),
    ):
        with pytest.raises(UserError, match=message):
            layers("pretrained=tiny-paligemma2", "spatial", model="steered_paligemma", **more)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected one of nothing, sentences, prompts, answers"):
        register_layer_score("mine", description="", needs="luck")


def test_sentences_that_are_not_the_vectors_own_are_not_taken_for_them() -> None:
    recorded = vectors(concept="spatial")
    with pytest.raises(UserError, match="was not made from the sentences of 'spatial' as they are now"):
        _ = ConceptSentences(None, recorded).concept
    with pytest.raises(UserError, match="the sentences of 'mine' do not ship: name their file with --concept"):
        _ = ConceptSentences(None, vectors(concept="mine")).concept
    assert ConceptSentences(None, recorded, concepts.load("counting")).concept == concepts.load("counting")


@pytest.mark.parametrize("returned", [None, [0.1, 0.5, 0.9, 0.1]])
def test_a_score_of_ones_own_that_is_not_by_layer_is_one_line(returned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_scores, "_entries", dict(layer_scores.entries()))
    register_layer_score("odd", description="not by layer", needs="nothing")(lambda context: returned)  # noqa: ARG005
    with pytest.raises(UserError, match=f"its function returned a {type(returned).__name__}: expected layer ▸ number"):
        layer_scores.get("odd")(context_of(*planted()))


@pytest.mark.parametrize("first", [{0: float("nan")}, {}, {0: None}, {0: "much"}])
def test_a_score_without_a_value_at_a_layer_has_no_best_layer(
    first: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {**first, 1: 0.5, 2: 0.9, 3: 0.1}
    monkeypatch.setattr(layer_scores, "_entries", dict(layer_scores.entries()))
    register_layer_score("partial", description="lacks one", needs="nothing")(lambda context: scores)  # noqa: ARG005
    with pytest.raises(UserError, match="it has no value at layer 0"):
        layer_scores.get("partial")(context_of(*planted()))
