"""Texts that a user types, and YAML files, damaged: a value or one clear line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lmms_steer import SteeringSpec, SteeringVectors, concepts
from lmms_steer._util.yaml import read_yaml
from lmms_steer.data.availability import read_task_file
from lmms_steer.data.benchmarks import benchmarks
from lmms_steer.extraction.sae_verdicts import Verdicts
from lmms_steer.harness.arguments import check_model_args
from lmms_steer.models.answer_bias import read_answer_bias
from lmms_steer.recipes.loading import load_recipe
from lmms_steer.recipes.plan import Planner
from lmms_steer.search.chosen_strategy import parse_strategy
from lmms_steer.search.options import parse_alphas, parse_layers, parse_targets
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.operations import operations
from lmms_steer.steering.resolve import resolve
from lmms_steer.vectors import store
from lmms_steer.vectors.controls import parse_control
from lmms_steer.vectors.methods import methods, split_method
from tests.fuzz.mutations import damaged_text, damaged_yaml, write
from tests.fuzz.running import check
from tests.helpers.documents import ROOT
from tests.helpers.models import vectors
from tests.helpers.recipes import RECIPE

TINY = ModelFacts("tiny-paligemma2", 5, 96)
SPECS = [
    "vector=spatial,layer=3,alpha=0.5,tokens=image",
    'vector="tiny-gemma2/spatial, x",alpha=1e-3,tokens=both,scale=relative; vector=counting,layer=0,control=random:7',
    "vector=spatial,layer=2,alpha=-1,tokens=both,phase=all,gamma_image=0.5,gamma_text=2",
]
CONCEPT = """\
name: mine
about: "a, b"
pairs:
  - left: The cup is left of it.
  - right: It is right.
contrast: [{up: Up.}]
"""


@given(damaged_text(SPECS))
def test_spec_lines(line: str) -> None:
    check("spec line", lambda: SteeringSpec.parse(line))


@given(damaged_text([f"pretrained=tiny-paligemma2,{spec}" for spec in SPECS] + ["pretrained=x,steering=/dev/zero"]))
def test_model_args(line: str) -> None:
    check("model_args", lambda: check_model_args("steered_hf", line))


@given(
    damaged_text(["mean_shift", "race+screen", "random:7", "wrong_concept:counting", "spatial", "tiny-gemma2/spatial"])
)
def test_names(name: str) -> None:
    readers: list[Callable[[str], Any]] = [
        methods.get,
        operations.get,
        benchmarks.get,
        parse_strategy,
        parse_control,
        split_method,
        concepts.load,
        lambda name: store.find(name, "tiny-gemma2"),
        lambda name: store.find(name, None),
        load_recipe,
    ]
    for read in readers:
        check("name", read, name)


@given(damaged_text(["0-8:2", "1,4,7", "0.1:1.0:0.1", "0.5,1,2", "image,text,both"]))
def test_ranges(text: str) -> None:
    readers: list[Callable[[str], Any]] = [parse_layers, parse_alphas, parse_targets]
    for read in readers:
        check("range", read, text)


def as_yaml(*specs: str) -> list[str]:
    return [SteeringSpec.parse(spec).to_yaml() + "provenance: {chosen_on: a}\n" for spec in specs]


@given(damaged_yaml(as_yaml(*SPECS)))
def test_spec_files(seeds: Path, data: bytes) -> None:
    path = write(seeds / "spec.yaml", data)
    check("spec file", lambda: str(SteeringSpec.from_yaml(path)))


@given(damaged_yaml([CONCEPT]))
def test_concept_files(seeds: Path, data: bytes) -> None:
    path = write(seeds / "mine.yaml", data)
    check("concept, YAML", lambda: concepts.load(path).sentences_sha256)


ROWS = ['{"anchor": "left", "sentence": "It is left."}\n{"anchor": "up", "sentence": "Up.", "contrast": true}\n']


@given(damaged_text(ROWS) | damaged_text(['anchor,sentence,contrast\nleft,It is left.,\nup,"Up, now.",true\n']))
def test_concept_rows(seeds: Path, text: str) -> None:
    for suffix in (".jsonl", ".csv"):
        path = write(seeds / f"rows{suffix}", text)
        check("concept, JSONL and CSV", concepts.load, path)


OVERLAY = "models: {'*': {batch_size: 2}}\nmethods: {pca: {controls: 2}}\n"


@given(damaged_yaml([RECIPE]), damaged_yaml([OVERLAY]) | st.just(OVERLAY.encode()))
def test_recipes(seeds: Path, recipe: bytes, overlay: bytes) -> None:
    path, above = write(seeds / "recipe.yaml", recipe), write(seeds / "overlay.yaml", overlay)

    def plan() -> None:
        _, loaded = load_recipe(str(path), [str(above)])
        Planner(loaded, seeds / "out").cells()

    check("recipe", plan)


@given(damaged_text(["models.tiny.pretrained=x", "methods.*.alphas=[1, 2]", "search=null", "studies.left.test=a"]))
def test_settings_of_recipes(seeds: Path, assignment: str) -> None:
    path = write(seeds / "plain.yaml", RECIPE)
    check("--set", lambda: load_recipe(str(path), (), [assignment]))


@given(damaged_yaml(["{layer: 1, alpha: 0.5}", "a: &a {b: 1}\nc: {<<: *a, d: [*a, 1.5]}\n"]))
def test_yaml(seeds: Path, data: bytes) -> None:
    path = write(seeds / "any.yaml", data)
    check("YAML", lambda: (read_yaml(path).typed(), read_yaml(path).untyped()))


CHOICE = {"layer": 1, "alpha": 0.5, "tokens": "image", "chosen_on": "a"}


@given(st.data())
def test_choices(own_cache: Path, data: Any) -> None:
    path = store.save(vectors(5, 96, model="tiny-gemma2", concept="spatial"))
    sha256 = SteeringVectors.load(path).sha256
    text = json.dumps({"tiny-paligemma2": {**CHOICE, "vector_sha256": sha256}})
    write(path.with_suffix(".choices.yaml"), data.draw(damaged_yaml([text])))
    check("choices", lambda: resolve(SteeringSpec.parse("vector=tiny-gemma2/spatial"), TINY).record())


@given(damaged_yaml(["A: 0.5\nB: -1\n'yes': 2\n"]))
def test_answer_biases(seeds: Path, data: bytes) -> None:
    path = write(seeds / "bias.yaml", data)
    check("answer biases", lambda: read_answer_bias(str(path), hash, hash))


@given(damaged_yaml(["sae:\n  7: {means: true, reason: r, by: b, contexts: [a]}\n"]))
def test_verdicts(seeds: Path, data: bytes) -> None:
    path = write(seeds / "verdicts.yaml", data)
    check("verdicts of a judge", lambda: Verdicts("b", "c", path).get("sae", 7))


TASK = (
    (ROOT / "tasks/tiny_world/tiny_spatial.yaml").read_text() if (ROOT / "tasks/tiny_world").is_dir() else "task: a\n"
)


@given(damaged_text([TASK, "include: other.yaml\ntask: a\n"]))
def test_task_files(seeds: Path, text: str) -> None:
    write(seeds / "other.yaml", "dataset_path: a/b\n")
    path = write(seeds / "task.yaml", text)
    check("task file", lambda: read_task_file(path))
