"""Vector files keep their provenance, damaged ones are refused, and a name finds the right file."""

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.numpy import save_file
from typer.testing import CliRunner

from lmms_steer import SteeringSpec, SteeringVectors, UserError
from lmms_steer._util.io import write_atomically
from lmms_steer.cli import app
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.operations import DEFAULT_ALPHA
from lmms_steer.steering.resolve import DEFAULT_TOKENS, resolve
from lmms_steer.vectors import store
from lmms_steer.vectors.steering_vectors import read_provenance
from tests.helpers import warm
from tests.helpers.models import vectors

TINY = ModelFacts("tiny-paligemma2", 5, 96)


def filed(root: Path, concept: str = "spatial", **more: Any) -> Path:
    return store.save(vectors(5, 96, model="tiny-gemma2", concept=concept, **more), root)


def test_a_saved_file_round_trips_and_safetensors_reads_it(tmp_path: Path) -> None:
    made = vectors()
    path = made.save(tmp_path / "v.safetensors")
    read = SteeringVectors.load(path)
    assert read.provenance == made.provenance and read.layers == made.layers
    assert all(np.array_equal(read[layer], made[layer]) for layer in made)
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("layer.2"), torch.from_numpy(made[2]))


@pytest.mark.parametrize(
    "direction",
    [
        pytest.param(np.arange(12, dtype=np.float32).reshape(6, 2)[:, 1], id="the column of a matrix"),
        pytest.param(np.arange(12, dtype=np.float32)[::-2], id="every second one, backwards"),
        pytest.param(np.arange(12, dtype=np.float32).reshape(4, 3).T, id="patches, transposed"),
    ],
)
def test_directions_that_are_views_of_other_arrays_are_saved_as_they_are(tmp_path: Path, direction: Any) -> None:
    made = SteeringVectors({0: direction}, {"model": "tiny", "concept": "mine", "method": "own"})
    copied = SteeringVectors({0: direction.copy(order="C")}, made.provenance)
    np.testing.assert_array_equal(SteeringVectors.load(made.save(tmp_path / "v.safetensors"))[0], direction)
    assert made.sha256 == copied.sha256


@pytest.mark.slow
def test_same_inputs_give_the_same_bytes_in_another_process() -> None:
    code = "from tests.helpers.models import vectors; print(vectors().sha256)"
    other = warm.run("python", "-c", code)
    assert other.stdout.strip() == vectors().sha256
    assert vectors(concept="counting").sha256 != vectors().sha256


def test_damaged_and_foreign_files_are_refused_in_one_line(tmp_path: Path) -> None:
    good = vectors().to_bytes()
    cases = {
        "cut.safetensors": (good[:-40], "cut off or no safetensors"),
        "empty.safetensors": (b"", "cut off or no safetensors"),
        "text.safetensors": (b"hello, this is no tensor file", "cut off or no safetensors"),
        "pickle.pt": (b"\x80\x04", "pickle"),
    }
    save_file({"w": np.zeros(3)}, tmp_path / "other.safetensors")
    cases["other.safetensors"] = ((tmp_path / "other.safetensors").read_bytes(), "not one of lmms-steer's")
    for name, (data, expected) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=expected) as caught:
            SteeringVectors.load(tmp_path / name)
        assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize(
    ("directions", "provenance", "message"),
    [
        (np.ones((2, 4)), {}, "a vector is made of layer ▸ direction, got a ndarray"),
        ({0: np.ones(4)}, None, "a vector is made of a mapping of provenance, got a NoneType"),
        ({"layer.3": np.ones(4)}, {}, "a vector's layers are whole numbers, got 'layer.3'"),
        ({1.5: np.ones(4)}, {}, r"a vector's layers are whole numbers, got 1\.5"),
        ({0: np.ones(4) * 1j}, {}, "it has complex numbers"),
        ({0: [[1.0, 2.0], [3.0]]}, {}, "a direction cannot be read as numbers"),
    ],
)
def test_what_is_no_direction_by_layer_is_one_line(directions: Any, provenance: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SteeringVectors(directions, provenance)


def test_numbers_as_keys_of_the_provenance_give_the_hash_that_the_file_has(tmp_path: Path) -> None:
    made = SteeringVectors({0: np.ones(4, np.float32)}, {"settings": {"accuracy": {2: 0.5, 10: 0.75}}})
    assert SteeringVectors.load(made.save(tmp_path / "v.safetensors")).sha256 == made.sha256


def test_values_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="not finite at layer 0"):
        SteeringVectors({0: np.array([1.0, np.nan])}, {})


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "v.safetensors"
    target.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="cannot write .*No space left on device"):
        write_atomically(target, b"new")
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_a_damaged_file_has_an_index_row_and_blocks_no_other(own_cache: Path) -> None:
    whole = filed(store.user_store())
    for concept, data in {
        "cut": whole.read_bytes()[:100],
        "empty": b"",
        "list": SteeringVectors.load(whole).to_bytes().replace(b'"settings\\": {}', b'"settings\\": []'),
    }.items():
        path = store.user_store() / "tiny-gemma2" / concept / "pca.safetensors"
        path.parent.mkdir()
        path.write_bytes(data)
        with pytest.raises(UserError, match=re.escape(repr(str(path)))):
            SteeringVectors.load(path)
    filed(store.user_store(), concept="counting")
    rows = yaml.safe_load((store.user_store() / "index.yaml").read_text())
    assert {name.split("/")[1] for name, row in rows.items() if "damaged" in row} == {"cut", "empty", "list"}
    assert rows["tiny-gemma2/counting/mean_shift"]["hidden_size"] == 96 and len(rows) == 5


def test_a_shape_missing_from_the_provenance_is_read_from_the_header(own_cache: Path) -> None:
    path = store.user_store() / "tiny-gemma2" / "theirs" / "mean_shift.safetensors"
    SteeringVectors({1: np.ones(7, np.float32), 3: np.ones(7, np.float32)}, {}).save(path)
    listed = CliRunner().invoke(app, ["vectors", "list", "theirs"])
    assert listed.exit_code == 0 and re.search(r"yours +2 layers \(1, 3\) x 7 +- anchors", listed.output)
    assert read_provenance(path)["n_layers"] == 4
    assert "n_layers" not in SteeringVectors.load(path).provenance, "what is hashed is what the file says"


def test_names_find_the_file_and_your_vector_hides_the_shipped_one(own_cache: Path) -> None:
    mine = filed(store.user_store())
    for name in ("spatial", "spatial/mean_shift", "tiny-gemma2/spatial", "tiny-gemma2/spatial/mean_shift", str(mine)):
        assert store.find(name, "tiny-gemma2").path == mine
    assert own_cache in mine.parents
    assert "tiny-gemma2/spatial/mean_shift" in (store.user_store() / "index.yaml").read_text()
    with pytest.raises(UserError, match="unknown vector 'spatail': did you mean 'spatial'"):
        store.find("spatail", "tiny-gemma2")
    with pytest.raises(UserError, match="unknown vector 'tiny-gemma2/spatail': did you mean 'tiny-gemma2/spatial'"):
        store.find("tiny-gemma2/spatail", None)
    with pytest.raises(UserError, match="leaves out the text backbone"):
        store.find("spatial", None)
    with pytest.raises(UserError, match="no such vector file"):
        store.find("./nothing.safetensors", None)


@pytest.mark.parametrize(
    ("name", "backbone", "expected"),
    [
        (
            "gemma-2-2b/spatial",
            None,
            "not extracted yet: lmms-steer extract --backbone gemma-2-2b --concept spatial",
        ),
        ("spatial/pca", "gemma-2-2b", "lmms-steer extract --backbone gemma-2-2b --concept spatial --method pca"),
        (
            "gemma-2-2b/shade",
            None,
            "name its file): lmms-steer extract --backbone gemma-2-2b --concept shade.yaml (shade.yaml:",
        ),
        ("gemma-2-2b/spatail", None, "did you mean 'gemma-2-2b/spatial'? otherwise it is not extracted yet: "),
        (
            "smollm2-135m/colour-red",
            None,
            "not extracted yet (stored: smollm2-135m/colour-red/sae, smollm2-135m/colour-red/sae_denoised): lmms",
        ),
        (
            "colour-red",
            "smollm2-135m",
            "extracted yet (stored: colour-red/sae, colour-red/sae_denoised): lmms-",
        ),
        ("spatail", "tiny-gemma2", "unknown vector 'spatail': did you mean 'spatial'? known: spatial, "),
        ("spatail", "tiny-gemma2", "vectors list); otherwise it is not extracted yet: lmms-steer extract "),
        ("tiny-gema2/spatial", None, "did you mean 'tiny-gemma2/spatial'? otherwise"),
        ("my-llama/shade", None, "extract --backbone my-llama --concept shade.yaml (my-llama: its Hub id or folder;"),
        ("tiny-gemma2/spatial/sea", None, "did you mean 'tiny-gemma2/spatial/sae'? known: "),
        ("spatial/no_method", None, "leaves out the text backbone"),
        (
            "spatial",
            None,
            "tiny-gemma2/spatial; to extract it from your own: lmms-steer extract --backbone MODEL --concept spatial",
        ),
        ("zzz", None, "unknown vector 'zzz': known: "),
        (
            "spatail",
            None,
            "unknown vector 'spatail': did you mean 'tiny-gemma2/spatial'? known: smollm2-135m/spatial/",
        ),
    ],
)
def test_the_error_for_a_missing_vector_gives_the_command_or_the_nearest_name(
    name: str, backbone: str | None, expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        store.find(name, backbone)
    assert expected in str(caught.value)
    assert str(caught.value).count(", ") <= 6, "of more than a dozen names the nearest"


@pytest.mark.parametrize("method", ["mean_shift", "pca"])
def test_a_vector_of_the_multimodal_model_itself_has_its_full_name_in_the_error(method: str) -> None:
    store.save(vectors(5, 96, model="tiny-paligemma2", concept="leafy", method=method))
    store.save(vectors(5, 96, model="smol-idefics3", concept="leafy", method=method))
    typed = "leafy" if method == "mean_shift" else f"leafy/{method}"
    for name in (typed, f"tiny-gemma2/{typed}"):
        with pytest.raises(UserError, match=f"write vector=tiny-paligemma2/{typed}$"):
            store.find(name, "tiny-gemma2")
    with pytest.raises(UserError, match="not extracted yet"):
        store.find("leafy/sae", "tiny-gemma2")


@pytest.mark.parametrize("backbone", [None, "tiny-gemma2"])
def test_a_path_that_is_not_a_vector_file_is_refused(
    backbone: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scene.png").write_bytes(b"")
    (tmp_path / "green.yaml").write_text("name: green")
    for folder in ("vectors", "colour-red", "sub/folder"):
        (tmp_path / folder).mkdir(parents=True)
    for name, expected in (
        ("scene.png", "'scene.png' is no safetensors file"),
        ("green.yaml", "extract their vector first .lmms-steer extract --backbone MODEL --concept green.yaml"),
        ("vectors", "'vectors' is a folder, and no safetensors file"),
        ("sub/folder", "'sub/folder' is a folder, and no safetensors file"),
        ("./vectors", "'vectors' is a folder, and no safetensors file"),
        ("colour-red/pca-shuffled", "leaves out the text backbone" if backbone is None else "not extracted yet"),
    ):
        with pytest.raises(UserError, match=expected):
            store.find(name, backbone)


def test_the_command_in_the_error_for_a_missing_vector_extracts_it() -> None:
    with pytest.raises(UserError, match="not extracted yet") as caught:
        store.find("tiny-gemma2/spatial/pca-shuffled", None)
    program, *words = str(caught.value).rsplit(": ", 1)[1].split()
    assert program == "lmms-steer" and CliRunner().invoke(app, words).exit_code == 0
    assert store.find("tiny-gemma2/spatial/pca-shuffled", None).origin == "yours"


def test_missing_values_come_from_the_stored_choice_or_the_defaults() -> None:
    path = filed(store.user_store(), concept="my-own")
    spec = SteeringSpec.parse("vector=my-own,alpha=2")
    plain = resolve(spec, TINY)
    assert str(plain.spec) == f"vector=tiny-gemma2/my-own/mean_shift,layer=2,alpha=2,tokens={DEFAULT_TOKENS}"
    assert "defaults" in plain.notes[0] and "layer, tokens" in plain.notes[0]
    assert resolve(SteeringSpec.parse("vector=my-own"), TINY).spec.interventions[0].alpha == DEFAULT_ALPHA
    sha = SteeringVectors.load(path).sha256
    choice = {"layer": 1, "alpha": 0.25, "tokens": "image", "chosen_on": "tiny_spatial_select", "vector_sha256": sha}
    store.write_choice(path.with_suffix(".choices.yaml"), "tiny-paligemma2", choice)
    for typed in ("", ",tokens=image", ",layer=1,alpha=0.25", ",control=random:1"):
        chosen = resolve(SteeringSpec.parse(f"vector=my-own{typed}"), TINY)
        (done,) = chosen.spec.interventions
        assert (done.layer, done.alpha, done.tokens) == (1, 0.25, "image")
        assert "chosen on tiny_spatial_select" in chosen.notes[0]
        assert chosen.record()["provenance"] == {"chosen_on": "tiny_spatial_select"}
    filed(store.user_store(), concept="my-own", seed=9)
    (note,) = resolve(SteeringSpec.parse("vector=my-own"), TINY).notes
    assert f"{str(path.with_suffix('.choices.yaml'))!r} was made for a different version of this vector" in note
    assert "nothing was chosen" not in note and "defaults" in note
    other = ModelFacts("other/tiny-paligemma2-b", 5, 96)
    assert "because nothing was chosen" in resolve(SteeringSpec.parse("vector=tiny-gemma2/my-own"), other).notes[0]
    for damaged in (b"\xff\xfe", b"tiny-paligemma2: 3", b"a: 2026-13-45", b"- 1", b"a: ["):
        path.with_suffix(".choices.yaml").write_bytes(damaged)
        with pytest.raises(UserError, match=r"the choices file .* is damaged"):
            resolve(SteeringSpec.parse("vector=my-own"), TINY)


@pytest.mark.parametrize("control", [None, "random:1"])
def test_a_chosen_spec_with_a_control_is_compared_with_the_vector_before_it(control: str | None) -> None:
    own, other = vectors(5, 96), vectors(5, 96, seed=1)
    one = Intervention("v", 1, 0.5, "both", control=control)
    made = resolve(SteeringSpec((one,)), TINY, {"v": own}).vectors[0]
    for sha256, warned in ((own.sha256, False), (made.sha256, False), (other.sha256, True)):
        warnings = resolve(SteeringSpec((one,), {"vector_sha256": sha256}), TINY, {"v": own}).warnings
        assert any("is not the one that layer, alpha and tokens were chosen for" in line for line in warnings) == warned


def test_a_choice_holds_for_the_weights_that_it_was_made_on_and_not_for_others_of_the_name(tmp_path: Path) -> None:
    path = filed(store.user_store(), concept="mine")
    choices, spec = path.with_suffix(".choices.yaml"), SteeringSpec.parse("vector=tiny-gemma2/mine")
    folders = [tmp_path / part / "my-vlm" for part in ("first", "second")]
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        save_file({"weight": np.full(3, number, np.float32)}, folder / "model.safetensors")
    first, second = (ModelFacts(str(folder), 5, 96) for folder in folders)
    choice = {
        "layer": 1,
        "alpha": 0.25,
        "tokens": "image",
        "chosen_on": "a",
        "vector_sha256": SteeringVectors.load(path).sha256,
    }
    store.write_choice(choices, str(folders[0]), choice)
    assert resolve(spec, first).spec.interventions[0].layer == 1
    recorded = hashlib.sha256((folders[0] / "model.safetensors").read_bytes()).hexdigest()
    other = resolve(spec, second)
    assert other.spec.interventions[0].layer == 2
    assert f"was made on other weights, {str(folders[0])!r} (weights {recorded[:12]})" in other.notes[0]
    # a file of an earlier version, which names no weights, or weights that are not on this machine
    choices.write_text(yaml.safe_dump({"my-vlm": choice}))
    assert resolve(spec, second).spec.interventions[0].layer == 1
    choices.write_text(yaml.safe_dump({"my-vlm": choice | {"model": {"model_id": "a/my-vlm"}}}))
    assert resolve(spec, second).spec.interventions[0].layer == 1


def test_a_choice_belongs_to_the_revision_that_it_was_made_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repo = tmp_path / "hub" / "models--org--my-vlm"
    for number, commit in enumerate(("a" * 40, "b" * 40)):
        snapshot = repo / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text("{}")
        save_file({"weight": np.full(3, number, np.float32)}, snapshot / "model.safetensors")
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text("b" * 40)
    path = filed(store.user_store(), concept="mine")
    choice = {"layer": 1, "alpha": 0.25, "tokens": "image", "chosen_on": "a"}
    sha = SteeringVectors.load(path).sha256
    store.write_choice(path.with_suffix(".choices.yaml"), "org/my-vlm", {**choice, "vector_sha256": sha}, "a" * 40)
    spec = SteeringSpec.parse("vector=tiny-gemma2/mine")
    layers = {
        revision: resolve(spec, ModelFacts("org/my-vlm", 5, 96, revision=revision)).spec.interventions[0].layer
        for revision in ("a" * 40, "b" * 40, None)
    }
    assert layers == {"a" * 40: 1, "b" * 40: 2, None: 2}


@pytest.mark.parametrize(
    ("typed", "filled"),
    [
        ("alpha=2", (2, 2, "both")),
        ("layer=3", (3, 0.5, "both")),
        ("layer=1,tokens=text", (1, 0.5, "text")),
        ("scale=relative", (2, 0.2, "both")),
        ("scale=unit", (2, 0.5, "both")),
        ("operation=ablate", (2, 1, "both")),
        ("operation=rotate", (2, 0.2, "both")),
        ("phase=all,layer=1", (1, 0.5, "both")),
        ("gamma_text=0.5", (2, 0.5, "both")),
    ],
)
def test_a_stored_choice_is_used_as_a_whole_or_not_at_all(typed: str, filled: tuple[int, float, str]) -> None:
    path = filed(store.user_store(), concept="my-own")
    choice = {"layer": 1, "alpha": 0.25, "tokens": "image", "chosen_on": "tiny_spatial_select"}
    sha = SteeringVectors.load(path).sha256
    store.write_choice(path.with_suffix(".choices.yaml"), "tiny-paligemma2", {**choice, "vector_sha256": sha})
    found = resolve(SteeringSpec.parse(f"vector=my-own,{typed}"), TINY)
    (done,) = found.spec.interventions
    assert (done.layer, done.alpha, done.tokens) == filled
    assert "defaults, because the choice for tiny-paligemma2, vector=" in found.notes[0]
    assert "layer=1,alpha=0.25,tokens=image, does not match" in found.notes[0] and "provenance" not in found.record()


def test_the_spec_hash_depends_on_the_vector_s_content_and_not_on_its_name(tmp_path: Path) -> None:
    v = vectors(5, 96, model="tiny-gemma2")
    copy = v.save(tmp_path / "copy.safetensors")
    line = "layer=1,alpha=1,tokens=image"
    named = resolve(SteeringSpec.parse(f"vector=a,{line}"), TINY, {"a": v})
    moved = resolve(SteeringSpec.parse(f"vector={copy},{line}"), TINY)
    other = resolve(SteeringSpec.parse(f"vector=a,{line}"), TINY, {"a": vectors(5, 96, seed=1)})
    stronger = resolve(SteeringSpec.parse("vector=a,layer=1,alpha=1.5,tokens=image"), TINY, {"a": v})
    assert named.sha256 == moved.sha256
    assert len({named.sha256, other.sha256, stronger.sha256}) == 3


def test_a_vector_of_another_backbone_is_a_warning() -> None:
    foreign = vectors(5, 96, model="gemma-2-2b")
    resolved = resolve(SteeringSpec.parse("vector=a,layer=1,alpha=1,tokens=image"), TINY, {"a": foreign})
    assert "gemma-2-2b" in resolved.warnings[0] and "tiny-gemma2" in resolved.warnings[0]
    own = resolve(
        SteeringSpec.parse("vector=a,layer=1,alpha=1,tokens=image"), TINY, {"a": vectors(5, 96, model="tiny-gemma2")}
    )
    assert not own.warnings


def test_choices_written_concurrently_are_all_stored(tmp_path: Path) -> None:
    path, choice = tmp_path / "store" / "v.choices.yaml", {"layer": 1, "alpha": 0.5, "tokens": "text"}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.write_choice(path, f"model-{number}", choice), range(24)))
    assert len(yaml.safe_load(path.read_text())) == 24
    path.write_text("- no mapping")
    with pytest.raises(UserError, match=r"v.choices.yaml' is damaged"):
        store.write_choice(path, "model", choice)


@pytest.mark.parametrize(
    ("directions", "provenance", "message"),
    [
        ({-1: np.ones(4)}, {}, "cannot be saved: its tensor 'layer.-1'"),
        ({0: np.ones(4)}, {"hidden_size": 5}, "cannot be saved: its metadata says hidden_size 5"),
        ({0: np.ones(4)}, {"concept": None}, "cannot be saved: concept is None"),
        ({0: np.ones(4)}, {"settings": {"norm": np.float32(1)}}, "is not plain JSON: Object of type float32"),
        ({0: torch.ones(4, dtype=torch.bfloat16)}, {}, "a direction cannot be read as numbers"),
    ],
)
def test_what_could_not_be_read_again_is_not_saved(
    directions: Any, provenance: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        SteeringVectors(directions, provenance).save(tmp_path / "v.safetensors")
    assert not list(tmp_path.iterdir())
