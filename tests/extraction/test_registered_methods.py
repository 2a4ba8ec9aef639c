"""Methods that a script or another package registers, and functions given in place of a name."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from lmms_steer import SteeringSpec, SteeringVectors, UserError, concepts
from lmms_steer.cli import app
from lmms_steer.extraction.extract import Backbone
from lmms_steer.extraction.first_use import extract_missing
from lmms_steer.extraction.methods import Activations, ExtractionJob, MethodFunction, MethodResult, register_method
from lmms_steer.recipes.loading import load_recipe
from lmms_steer.vectors import store
from lmms_steer.vectors.methods import methods, split_method
from tests.helpers import warm


def median_shift(activations: Activations, job: ExtractionJob) -> MethodResult:  # noqa: ARG001
    shift = np.median(activations.anchors, axis=0) - np.median(activations.controls, axis=0)
    return MethodResult(dict(enumerate(shift)), {"middle": "median"})


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone("tiny-gemma2")


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> Iterator[MethodFunction]:
    """A method `mine`, registered for one test."""
    assert "mean_shift" in methods, "the built-in methods are registered first"
    monkeypatch.setattr(methods, "_entries", dict(methods._entries))
    function = register_method("mine", description="difference of medians")(lambda a, job: median_shift(a, job))
    yield function


def extract(method: str, root: Path) -> Result:
    words = ["extract", "--backbone", "tiny-gemma2", "--concept", "spatial", "--method", method, "--store", str(root)]
    return CliRunner().invoke(app, words)


@pytest.mark.usefixtures("mine")
def test_a_registered_method_is_used_by_name_alone_and_with_a_control(tmp_path: Path) -> None:
    done = extract("mine,mine-shuffled", tmp_path)
    assert done.exit_code == 0 and "tiny-gemma2/spatial/mine-shuffled: " in done.output
    true, shuffled = (
        SteeringVectors.load(tmp_path / f"tiny-gemma2/spatial/{name}.safetensors") for name in ("mine", "mine-shuffled")
    )
    assert true.name == "tiny-gemma2/spatial/mine" and true.provenance["settings"]["middle"] == "median"
    assert shuffled.provenance["settings"]["control"] == "shuffled" and shuffled.provenance["settings"]["of"] == "mine"
    for layer in true:
        norm, other = np.linalg.norm(true[layer]), np.linalg.norm(shuffled[layer])
        assert other == pytest.approx(norm, rel=1e-4)
        assert true[layer] @ shuffled[layer] < 0.6 * norm * other


@pytest.mark.usefixtures("mine")
def test_a_registered_method_is_known_to_recipes_store_names_and_first_use(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "about: a test\nmodels:\n  tiny: {model: steered_paligemma, pretrained: tiny-paligemma2}\n"
        "methods:\n  mine: {alphas: 10}\n  mine-shuffled: {alphas: 10}\n"
        "studies:\n  s: {concepts: [spatial], select: tiny_spatial_select, test: tiny_spatial}\n"
    )
    assert set(load_recipe(str(tmp_path / "r.yaml"))[1].methods) == {"mine", "mine-shuffled"}
    assert split_method("mine") == ("mine", "") and split_method("mine-shuffled") == ("mine", "shuffled")
    assert not store.user_store().exists()
    lines = list(extract_missing(SteeringSpec.parse("vector=spatial/mine,layer=3,alpha=1"), "tiny-paligemma2"))
    assert "tiny-gemma2/spatial/mine" in lines[0]
    assert store.find("spatial/mine", "tiny-gemma2").name == "tiny-gemma2/spatial/mine"


def test_an_unregistered_method_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    refused = extract("mine", tmp_path)
    assert isinstance(refused.exception, UserError) and "unknown method 'mine'" in str(refused.exception)


def test_a_function_is_taken_in_place_of_a_name() -> None:
    backbone, concept = Backbone("tiny-gemma2"), concepts.load("spatial")
    activations = backbone.read(concept)
    vectors = backbone.vectors(concept, median_shift, activations)
    assert vectors.name == "tiny-gemma2/spatial/median_shift"
    expected = np.median(activations.anchors, axis=0) - np.median(activations.controls, axis=0)
    assert np.array_equal(vectors[3], expected[3].astype(np.float32))
    with pytest.raises(UserError, match="has no name for its vectors"):
        backbone.extract(concept, lambda a, job: median_shift(a, job), activations)

    def pca(activations: Activations, job: ExtractionJob) -> MethodResult:
        return median_shift(activations, job)

    with pytest.raises(UserError, match="'pca' has the name of a registered method"):
        backbone.extract(concept, pca, activations)


def test_a_registered_function_is_unchanged_and_its_name_cannot_be_taken_again(mine: MethodFunction) -> None:
    assert methods.get("mine").function is mine
    with pytest.raises(ValueError, match="method 'mine' is already registered"):
        register_method("mine", description="again")(median_shift)


def test_the_built_in_methods_are_found_without_torch() -> None:
    code = (
        "import sys\n"
        "import lmms_steer.extraction.methods\n"
        "from lmms_steer.vectors.methods import methods\n"
        "print(*sorted(name for name, method in methods.entries().items() if method.description))\n"
        "print(*{'torch', 'transformers', 'sklearn', 'sae_lens'} & sys.modules.keys())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["linear_probe mean_shift pca sae sae_denoised", ""]
    assert {name for name in methods if methods.get(name).uses_sae} == {"sae", "sae_denoised"}


EXTENSION = """\
import numpy as np
from lmms_steer.extraction.methods import MethodResult, register_method

@register_method("mine", description="difference of medians")
def mine(activations, job):
    shift = np.median(activations.anchors, axis=0) - np.median(activations.controls, axis=0)
    return MethodResult(dict(enumerate(shift)))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Environment variables with which a process finds an installed package that has a method."""
    (tmp_path / "my_extension.py").write_text(EXTENSION)
    metadata = tmp_path / "my_extension-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-extension\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[lmms_steer.methods]\nmine = my_extension:mine\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


@pytest.mark.slow
def test_a_method_of_an_installed_package_is_found_by_the_command_line(
    environment: dict[str, str], tmp_path: Path
) -> None:
    words = ["extract", "--backbone", "tiny-gemma2", "--concept", "spatial", "--method", "mine,mine-random"]
    done = warm.run("python", "-m", "lmms_steer.cli", *words, "--store", str(tmp_path / "store"), env=environment)
    assert done.returncode == 0, done.stderr
    stored = sorted(path.stem for path in (tmp_path / "store/tiny-gemma2/spatial").glob("*.safetensors"))
    assert stored == ["mine", "mine-random"]


@pytest.mark.parametrize("first", ["my_extension", "lmms_steer.extraction.methods"])
def test_a_script_may_import_an_installed_package_before_or_after_the_methods(
    environment: dict[str, str], first: str
) -> None:
    code = (
        f"import {first}, my_extension\nfrom lmms_steer.vectors.methods import methods\nprint(methods.get('mine').name)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "mine\n", done.stderr


def test_a_control_s_name_is_no_method_s() -> None:
    with pytest.raises(ValueError, match="method 'random' is the name of a control"):
        register_method("random", description="d")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({0: np.ones(96)}, "returned a dict, and not a MethodResult"),
        (MethodResult(np.ones((5, 96))), "takes layer ▸ direction, and not a ndarray"),  # type: ignore[arg-type]
        (MethodResult({0: np.ones(95)}), r"returned the shape \[95\] for layer 0, expected \[96\]"),
        (MethodResult({5: np.ones(96)}), "for layer 5, expected .* some of the layers 0-4"),
        (MethodResult({"0": np.ones(96)}), "for layer '0', expected"),  # type: ignore[dict-item]
        (MethodResult({}), "^spatial, odd: the method returned no direction$"),
        (MethodResult({0: np.full(96, np.nan)}), "^spatial, odd: the vector has values that are not finite at layer 0"),
        (MethodResult({0: np.ones(96) * 1j}), "^spatial, odd: .* it has complex numbers"),  # type: ignore[dict-item]
        (MethodResult({0: np.ones(96)}, None), "takes settings as a mapping, and not a NoneType"),  # type: ignore[arg-type]
        (MethodResult({0: np.ones(96)}, {}, "text"), "takes notes as a tuple of texts, got 'text'"),  # type: ignore[arg-type]
        (MethodResult({0: np.ones(96)}, libraries=("nonsuch-1",)), "the library 'nonsuch-1', which is not installed"),
    ],
)
def test_what_a_method_returns_is_checked_before_it_is_stored(backbone: Backbone, returned: Any, message: str) -> None:
    concept = concepts.load("spatial")

    def odd(activations: Activations, job: ExtractionJob) -> MethodResult:  # noqa: ARG001
        return returned  # type: ignore[no-any-return]

    with pytest.raises(UserError, match=message):
        backbone.extract(concept, odd, backbone.read(concept))


def test_activations_of_another_concept_or_backbone_are_refused(backbone: Backbone) -> None:
    red, blue = concepts.load("colour-red"), concepts.load("colour-blue")
    activations = backbone.read(red)
    with pytest.raises(UserError, match="^these activations are not of 'colour-blue': their first sentence is .*red"):
        backbone.extract(blue, "mean_shift", activations)
    narrow = replace(activations, anchors=activations.anchors[..., :48], controls=activations.controls[..., :48])
    with pytest.raises(UserError, match="5 layers of width 48, and tiny-gemma2 has 5 layers of width 96"):
        backbone.extract(red, "mean_shift", narrow)


def test_a_method_cannot_change_what_the_next_one_reads(backbone: Backbone) -> None:
    concept = concepts.load("spatial")
    activations = backbone.read(concept)

    def centred(activations: Activations, job: ExtractionJob) -> MethodResult:
        activations.anchors[:] -= activations.controls.mean(0)
        return median_shift(activations, job)

    before = activations.anchors.copy()
    with pytest.raises(ValueError, match="read-only"):
        backbone.extract(concept, centred, activations)
    assert np.array_equal(activations.anchors, before)
