"""`extract` replaces no vector from other sentences without --replace, and refuses a store that it cannot write."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lmms_steer import SteeringVectors, UserError
from lmms_steer.cli import app
from lmms_steer.recipes.loading import load_recipe
from lmms_steer.recipes.plan import Planner
from lmms_steer.vectors import store
from tests.helpers.models import vectors

ONE = "name: spatial\npairs:\n - left: The lamp is left of the door.\n"


def extract(*more: str, concept: str = "spatial") -> Result:
    return CliRunner().invoke(app, ["extract", "--backbone", "tiny-gemma2", "--concept", concept, *more])


def own(folder: Path, text: str = ONE) -> str:
    (folder / "c3.yaml").write_text(text)
    return str(folder / "c3.yaml")


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(*_: Any, **__: Any) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("lmms_steer.extraction.extract.Backbone", loads)


def test_a_vector_from_other_sentences_is_replaced_only_with_replace(tmp_path: Path) -> None:
    root, mine = tmp_path / "vectors", own(tmp_path)
    into = ("--store", str(root))
    for _ in range(2):
        assert extract(*into).exit_code == 0, "the same sentences may be extracted again"
    path = root / "tiny-gemma2" / "spatial" / "mean_shift.safetensors"
    before = path.read_bytes()
    refused = extract("--method", "linear_probe,mean_shift", *into, concept=mine)
    assert isinstance(refused.exception, UserError) and path.read_bytes() == before
    assert str(path) in str(refused.exception) and "--replace" in str(refused.exception)
    assert not path.with_name("linear_probe.safetensors").exists()
    assert extract(*into, "--replace", concept=mine).exit_code == 0
    assert SteeringVectors.load(path).provenance["settings"]["anchors"] == 1
    path.write_bytes(before[:50])
    assert extract(*into, concept=mine).exit_code == 0, "nothing is lost with a damaged file"


@pytest.mark.usefixtures("no_model")
def test_replacing_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    kept = store.save(vectors(5, 96, model="tiny-gemma2", concept="spatial", sentences_sha256="other"))
    assert str(kept) in str(extract().exception)
    assert "the model is loaded" in str(extract("--replace").exception)
    (tmp_path / f"{'x' * 220}.csv").write_text("anchor,sentence\nleft,It is left.\n")
    assert "has more than 200 bytes" in str(extract(concept=str(tmp_path / f"{'x' * 220}.csv")).exception)
    both = extract("--replace", concept=f"spatial,{own(tmp_path)}")
    assert "two of the concepts are named 'spatial'" in str(both.exception)
    (tmp_path / "q.jsonl").write_text('{"image": "q.jsonl", "prompt": "a", "contrast": "b"}')
    assert "other sentences" in str(extract("--questions", str(tmp_path / "q.jsonl")).exception)


def test_a_vector_that_was_made_with_other_options_is_replaced_only_with_replace(tmp_path: Path) -> None:
    into = ("--store", str(tmp_path))
    path = tmp_path / "tiny-gemma2" / "spatial" / "mean_shift.safetensors"
    other = ("--orthogonal_to", "tiny-gemma2/counting")
    assert extract("--layers", "1-2", *into).exit_code == 0
    assert extract("--layers", "1-2", *into).exit_code == 0, "the same options"
    assert extract("--layers", "1-3", *into).exit_code == 0, "no layer is lost"
    for options, message in (
        (("--layers", "1"), "was made for the layers 1-3: give the concept another name, or add --replace"),
        (other, "was made without --orthogonal_to: "),
    ):
        before = path.read_bytes()
        assert message in str(extract(*options, *into).exception) and path.read_bytes() == before
        assert extract(*options, *into, "--replace").exit_code == 0
        assert path.read_bytes() != before
    assert extract(*other, *into).exit_code == 0, "the same options"
    assert "was made with --orthogonal_to tiny-gemma2/counting/mean_shift: " in str(extract(*into).exception)


@pytest.mark.usefixtures("no_model")
def test_a_store_that_cannot_be_written_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "scene.png").write_bytes(b"")
    for root in (tmp_path / "scene.png", tmp_path / "scene.png" / "vectors"):
        refused = extract("--store", str(root))
        assert isinstance(refused.exception, UserError) and "scene.png' is not a folder" in str(refused.exception)
    assert "the model is loaded" in str(extract("--store", str(tmp_path / "new" / "vectors")).exception)
    assert not (tmp_path / "new").exists()


def test_a_vector_that_hides_a_shipped_one_is_noted_once(tmp_path: Path) -> None:
    hides = "lmms-steer note: these vectors in "
    assert hides not in extract().stderr, "the same bytes hide nothing"
    done = extract("--replace", "--method", "mean_shift,pca", concept=own(tmp_path))
    assert done.exit_code == 0 and done.stderr.count(hides) == 1
    assert "tiny-gemma2/spatial/mean_shift, tiny-gemma2/spatial/pca" in done.stderr
    assert hides not in extract("--store", str(tmp_path / "elsewhere"), concept=own(tmp_path)).stderr


def test_a_recipe_extracts_again_after_a_change_of_the_concept_file(tmp_path: Path) -> None:
    mine = own(tmp_path, ONE.replace("spatial", "mine"))
    (tmp_path / "r.yaml").write_text(
        "about: a test\nmodels:\n  tiny: {model: steered_paligemma, pretrained: tiny-paligemma2}\n"
        "methods:\n  mean_shift: {alphas: 10}\n"
        f"studies:\n  s: {{concepts: ['{mine}'], select: tiny_spatial_select, test: tiny_spatial}}\n"
    )
    cell = Planner(load_recipe(str(tmp_path / "r.yaml"))[1], tmp_path / "run").cells()[0]
    for text in ("It is left of the door.", "The lamp is left of it."):
        own(tmp_path, f"name: mine\npairs:\n - left: {text}\n")
        assert cell.kind == "extract" and CliRunner().invoke(app, list(cell.command[1:])).exit_code == 0
