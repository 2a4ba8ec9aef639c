"""`lmms-steer curve`: its probabilities against the model with hooks, and what it refuses."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lmms_steer import UserError, steer
from lmms_steer.cli import app
from lmms_steer.harness.steered import SteeredPaliGemma, SteeredVlm
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.tiny_world.media_questions import rows, shown_by
from lmms_steer.tiny_world.moving import Moving
from lmms_steer.vectors import store
from lmms_steer.vectors.steering_vectors import SteeringVectors
from lmms_steer.word_curves.command import first_tokens, word_of
from lmms_steer.word_curves.figure import word_curve_figure
from lmms_steer.word_curves.measure import Points, WordCurve, coloured_things, curve_lines, measure_curves

COMMAND = ("curve", "--model", "steered_paligemma", "--model_args", "pretrained=tiny-paligemma2")
SMALL = ("--vector", "colour-red,colour-blue", "--prompt", "what colour is the {shape} ?", "--pictures", "10")
IMAGES = ("--image", "x.png", "--image", "y.png")


def invoke(*words: str) -> str:
    done = CliRunner().invoke(app, [*COMMAND, *words])
    if isinstance(done.exception, UserError):
        return str(done.exception)
    assert done.exit_code == 0, done.output
    return done.output


def test_questions_about_one_image_do_not_narrow_the_interval() -> None:
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2")
    vector = store.load_vectors("tiny-gemma2/colour-red/mean_shift")
    pictures = coloured_things(6, ["yellow", "orange"], "what colour is the {shape} ?")
    word = first_tokens(lm, ("red",))["red"]
    margins = []
    for questions in (pictures, [one for one in pictures for _ in range(4)], [pictures[0]] * 4):
        (curves,), _ = measure_curves(lm, questions, [word], {"v": vector}, [1], [0.0, 0.5], "image", 8)
        margins.append(curves["v"][1].margin[1])
    # the same six pictures, each asked about once and four times
    assert margins[1] == pytest.approx(margins[0], rel=1e-3)
    assert np.isinf(margins[2])
    curve = WordCurve("red", ("v",), (0.0, 0.5), "image", curves)
    assert all("±" not in line for line in curve_lines(curve))
    assert next(curve_lines(curve)).endswith("; no interval, as all show one image")
    word_curve_figure(curve).draw_without_rendering()


@pytest.mark.parametrize("units", [2, 4, 10])
def test_the_interval_covers_the_mean_of_few_pictures(units: int) -> None:
    rng = np.random.default_rng(0)
    each = rng.normal(0.5, 0.1, (4000, units)).astype(np.float32)
    apart = Points(each)
    covered = np.abs(np.array(apart.mean) - 0.5) < apart.margin
    assert np.mean(covered) == pytest.approx(0.95, abs=0.012)
    # three equal questions about each picture
    again = Points(np.repeat(each, 3, axis=1), np.repeat(np.arange(units), 3))
    assert again.margin == pytest.approx(apart.margin, rel=1e-4)


def test_the_curve_is_what_the_model_with_hooks_gives(tmp_path: Path) -> None:
    output = invoke(*SMALL, "--layers", "1", "--alphas", "0.5", "--batch_size", "4", "--output", str(tmp_path / "o"))
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2")
    vector = SteeringVectors.load(store.find("colour-red", "tiny-gemma2").path)
    questions = coloured_things(10, ["yellow", "orange"], "what colour is the {shape} ?")
    red, expected = lm.tokenizer("red", add_special_tokens=False)["input_ids"][0], []
    with (
        torch.inference_mode(),
        steer(lm.model, SteeringSpec.parse("vector=v,layer=1,alpha=0.5,tokens=image"), {"v": vector}),
    ):
        for prompt, image in questions:
            logits = lm.model(**lm.model_inputs([prompt], [[image]])).logits[0, -1]
            expected.append(float(logits.softmax(-1)[red]))
    rows = list(csv.DictReader((tmp_path / "o" / "curve.csv").open()))
    (row,) = [row for row in rows if row["vector"] == "colour-red" and row["alpha"] == "0.5"]
    values = torch.tensor(expected)
    assert float(row["p"]) == pytest.approx(float(values.mean()), abs=2e-5)
    margin = 2.262157 * float(values.std()) / 10**0.5  # Student's t with 9 degrees of freedom
    assert float(row["high"]) == pytest.approx(min(1.0, float(values.mean()) + margin), abs=2e-5)
    # at alpha 0 every vector is the unsteered model, and random ones have no curve of their own in the text
    assert len({row["p"] for row in rows if row["alpha"] == "0"}) == 1
    assert {row["vector"] for row in rows} == {"colour-red", "colour-blue", "random-0", "random-1", "random-2"}
    assert f"{float(row['p']):.3f}" in output and "3 random, largest" in output
    assert (tmp_path / "o" / "curve.svg").is_file() and (tmp_path / "o" / "curve.png").is_file()


def test_each_word_is_measured_with_every_vector(tmp_path: Path) -> None:
    colours = ["red", "blue", "green"]
    vectors = ",".join(f"colour-{colour}" for colour in colours)
    small = ("--prompt", "what colour is the {shape} ?", "--pictures", "6", "--layers", "0-1", "--alphas", "0.5,1")
    output = invoke("--vector", vectors, "--every_word", *small, "--output", str(tmp_path / "all"))
    rows = list(csv.DictReader((tmp_path / "all" / "curve.csv").open()))
    assert [row["word"] for row in rows] == [colour for colour in colours for _ in range(6 * 2 * 3)]
    p = {(row["word"], row["vector"], row["layer"], row["alpha"]): float(row["p"]) for row in rows}
    for colour in colours:
        alone = invoke("--vector", vectors, "--word", colour, *small, "--output", str(tmp_path / colour))
        assert alone
        for row in csv.DictReader((tmp_path / colour / "curve.csv").open()):
            key = (row["word"], row["vector"], row["layer"], row["alpha"])
            assert p[key] == pytest.approx(float(row["p"]), abs=2e-6)
    # the printed cell is where the vectors' own words are the most probable
    means = {
        (layer, alpha): np.mean([p[colour, f"colour-{colour}", layer, alpha] for colour in colours])
        for layer in "01"
        for alpha in ("0", "0.5", "1")
    }
    layer, alpha = max(means, key=lambda cell: means[cell])
    assert f"layer {layer}, alpha {alpha}: where the vectors' own words are the most probable" in output
    printed = {line[:15].strip(): line.split()[-3:] for line in output.splitlines() if line}
    for name, vector in (("unsteered", "colour-red"), ("vector of blue", "colour-blue")):
        at = "0" if name == "unsteered" else alpha
        assert printed[name] == [f"{p[colour, vector, layer, at]:.3f}" for colour in colours]
    largest = [max(p[colour, f"random-{seed}", layer, alpha] for seed in range(3)) for colour in colours]
    assert printed["3 random, large"] == [f"{value:.3f}" for value in largest]
    others = [p[a, f"colour-{b}", layer, alpha] for a in colours for b in colours if a != b]
    assert f"{means[layer, alpha]:.3f} with its vector, {np.mean(others):.3f} with another word's" in output
    assert f"(at most {max(others):.3f}), at most {max(largest):.3f} with a random one" in output
    assert "with 3 of 3 vectors their own word is the likeliest of these" in output
    assert (tmp_path / "all" / "words.svg").is_file() and (tmp_path / "all" / "words.png").is_file()


def test_a_task_s_questions_are_asked_with_what_they_show(tmp_path: Path) -> None:
    direction = {layer: np.random.default_rng(0).standard_normal(64, np.float32) for layer in range(4)}
    given = {"model": "tiny-qwen2-vl", "concept": "x", "method": "drawn", "n_layers": 4, "hidden_size": 64}
    path = SteeringVectors(direction, given).save(tmp_path / "v.safetensors")
    words = ["--word", "left", "--vector", str(path), "--task", "tiny_motion", "--pictures", "6", "--controls", "0"]
    words += ["--tokens", "video", "--layers", "0", "--alphas", "1", "--output", str(tmp_path / "o")]
    done = CliRunner().invoke(app, ["curve", "--model_args", "pretrained=tiny-qwen2-vl", *words])
    assert done.exit_code == 0, done.output
    assert "P(left) on 6 questions of tiny_motion, video tokens steered" in done.output
    lm, expected = SteeredVlm(pretrained="tiny-qwen2-vl"), []
    with torch.inference_mode(), steer(lm.model, SteeringVectors.load(path), layer=0, alpha=1, tokens="video"):
        for row in rows("motion", "test")[:6]:
            shown = shown_by(row)
            assert isinstance(shown, Moving)
            logits = lm.model(**lm.model_inputs([row["question"]], [[shown.images()]])).logits[0, -1]
            expected.append(float(logits.softmax(-1)[lm.first_token("left")]))
    (found,) = [row for row in csv.DictReader((tmp_path / "o" / "curve.csv").open()) if row["alpha"] == "1"]
    assert float(found["p"]) == pytest.approx(sum(expected) / 6, abs=2e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            (*SMALL, "--task", "tiny_motion", *IMAGES),
            "--task tiny_motion brings its own images",
        ),
        (
            ("--vector", "colour-red", "--word", "crimsonish", "--layers", "0", "--alphas", "1"),
            "--word crimsonish: the tokenizer of tiny-paligemma2 does not know this word",
        ),
        (("--vector", "spatial"), "--word is missing: spatial does not name a word, as colour-red does"),
        (("--vector", "tiny-gemma2/spatial"), "--word is missing: tiny-gemma2/spatial does not name a word"),
        (("--vector", "colour-rad"), "did you mean 'colour-red'"),
        (("--vector", "colour-red", "--shown", "yellow,teal"), "the colour 'teal' cannot be drawn: choose from red"),
        (("--vector", "colour-red", "--tokens", "image,text"), "--tokens image,text: a curve has one token target"),
        (("--vector", "colour-red", "--layers", "7"), "--layers 7: the model has the layers 0-4"),
        (("--vector", "colour-red", "--every_word"), "--every_word needs the vectors of two words or more"),
        (("--vector", "colour-red,spatial", "--every_word"), "--every_word: spatial does not name a word"),
        (("--vector", "colour-red,colour-blue", "--every_word", "--word", "red"), "so leave --word out"),
        (
            ("--vector", "colour-red,tiny-gemma2/colour-red", "--every_word"),
            "--every_word: colour-red and tiny-gemma2/colour-red are both of the word red",
        ),
        (("--vector", "colour-red", "--image", "no.png"), "--image: an interval needs at least two pictures"),
        (("--vector", "colour-red", *IMAGES), "--image: give the question about your pictures with --prompt"),
        (("--vector", "colour-red", *IMAGES, "--prompt", "a {shape} ?"), "{shape} is known on drawn pictures only"),
        (("--vector", "colour-red", *IMAGES, "--prompt", "q", "--pictures", "9"), "--pictures is for drawn pictures"),
        (("--vector", "colour-red", *IMAGES, "--prompt", "q", "--shown", "red"), "--shown is for drawn pictures"),
        (("--vector", "colour-red", "--task", "tiny_motion", "--prompt", "q"), "so leave --prompt out"),
        (("--vector", "colour-red", "--task", "tiny_motion", "--shown", "red"), "so leave --shown out"),
    ],
)
def test_what_cannot_be_measured_is_refused(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    assert message in invoke(*words, "--output", str(tmp_path / "o"))
    assert not (tmp_path / "o").exists() or not any((tmp_path / "o").iterdir())


@pytest.mark.parametrize(
    "name", ["colour-red", "tiny-gemma2/colour-red", "vectors/smollm2-135m/colour-red/mean_shift.safetensors"]
)
def test_the_word_is_that_of_the_concept_and_not_a_part_of_a_backbone_or_a_method(name: str) -> None:
    assert word_of(name, "--word is missing") == "red"


def test_words_that_begin_with_the_same_token_are_not_told_apart() -> None:
    tokenizer = SimpleNamespace(unk_token_id=0)
    lm = SimpleNamespace(tokenizer=tokenizer, pretrained="m", first_token={"red": 3, "reddish": 3, "blue": 4}.get)
    assert first_tokens(lm, ("red", "blue")) == {"red": 3, "blue": 4}
    with pytest.raises(UserError, match="'red' and 'reddish' begin with the same token: measure them one by one"):
        first_tokens(lm, ("red", "blue", "reddish"))


@pytest.mark.parametrize(
    ("vectors", "layers"),
    [
        ([f"/a/long/folder/of/vectors/colour-{name}/{name}.safetensors" for name in ("red", "blue", "green")], [8]),
        ([f"tiny-gemma2/colour-{number}/mean_shift" for number in range(12)], [0, 8]),
    ],
)
def test_the_legend_is_inside_the_figure_and_tells_the_vectors_apart(vectors: list[str], layers: list[int]) -> None:
    points = Points(np.full((2, 3), 0.5, np.float32))
    curve = WordCurve("red", tuple(vectors), (0.0, 1.0), "image", {v: dict.fromkeys(layers, points) for v in vectors})
    figure = word_curve_figure(curve)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in legend.get_lines()}
    assert len(looks) == len(vectors)
