"""A model is identified by its weights: a name in a store belongs to one set of them, whatever its folder is called."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner, Result

from lmms_steer import SteeringSpec, SteeringVectors, UserError
from lmms_steer._util.hashing import file_sha256
from lmms_steer._util.io import cache_dir
from lmms_steer.cli import app
from lmms_steer.extraction.extract import Backbone
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.resolve import resolve
from lmms_steer.tiny_world.checkpoints import weights_dir
from lmms_steer.vectors import store, weights
from lmms_steer.vectors.ownership import save_own
from lmms_steer.vectors.weights import commit_of, model_source, same_weights, weights_sha256
from tests.helpers.models import vectors


@pytest.fixture(scope="module")
def fine_tunes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`a/checkpoint-500` and `b/checkpoint-500`: the tiny language model, and the same with one weight changed."""
    root = tmp_path_factory.mktemp("ft")
    for name in ("a", "b"):
        shutil.copytree(weights_dir("tiny-gemma2"), root / name / "checkpoint-500")
    model = AutoModelForCausalLM.from_pretrained(root / "b" / "checkpoint-500", dtype=torch.float16)
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight *= 1.5
    model.save_pretrained(root / "b" / "checkpoint-500")
    yield root
    shutil.rmtree(root)


def extract(backbone: Path | str, *more: str) -> Result:
    return CliRunner().invoke(app, ["extract", "--backbone", str(backbone), "--concept", "spatial", *more])


def checkpoint(folder: Path, *parts: bytes) -> Path:
    folder.mkdir(parents=True)
    if len(parts) == 1:
        (folder / "model.safetensors").write_bytes(parts[0])
        return folder
    names = [f"model-{i:05}-of-{len(parts):05}.safetensors" for i in range(1, len(parts) + 1)]
    for name, data in zip(names, parts, strict=True):
        (folder / name).write_bytes(data)
    index = {"weight_map": {f"w{i}": name for i, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_the_hash_is_what_sha256sum_prints(tmp_path: Path) -> None:
    assert weights_sha256(checkpoint(tmp_path / "one", b"abc")) == hashlib.sha256(b"abc").hexdigest()
    shards = checkpoint(tmp_path / "two", b"abc", b"de")
    (shards / "optimizer.safetensors").write_bytes(b"not loaded")
    names = sorted(path.name for path in shards.glob("model-*.safetensors"))
    listed = subprocess.run(["sha256sum", *names], cwd=shards, capture_output=True, check=True).stdout
    assert weights_sha256(shards) == hashlib.sha256(listed).hexdigest()
    (shards / "model-00002-of-00002.safetensors").unlink()
    assert weights_sha256(shards) is None and weights_sha256(tmp_path) is None
    (shards / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="cannot read the weights in .*two'"):
        weights_sha256(shards)


def test_a_large_file_is_hashed_once_and_again_after_any_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "CACHED_FROM", 1)
    hashed: list[Path] = []

    def counted(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr(weights, "file_sha256", counted)
    folder = checkpoint(tmp_path / "m", b"abc")
    monkeypatch.setattr(weights, "SETTLED_SECONDS", 3600)
    assert weights_sha256(folder) == weights_sha256(folder) and len(hashed) == 2, "it may be written just now"
    monkeypatch.setattr(weights, "SETTLED_SECONDS", -3600)
    before = [weights_sha256(folder) for _ in range(3)]
    assert len(hashed) == 3 and set(before) == {hashlib.sha256(b"abc").hexdigest()}
    path = folder / "model.safetensors"
    times = path.stat()
    path.write_bytes(b"abd")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert weights_sha256(folder) == hashlib.sha256(b"abd").hexdigest(), "the same size and time of change"
    (entry,) = (cache_dir() / "weights").iterdir()
    entry.write_text("no json")
    assert weights_sha256(folder) == hashlib.sha256(b"abd").hexdigest()


def test_a_hub_id_is_identified_by_the_names_of_the_files_in_the_hub_s_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    repo, sha256 = tmp_path / "models--org--m", "5" * 64
    for folder in ("blobs", "snapshots/c0ffee", "refs"):
        (repo / folder).mkdir(parents=True)
    (repo / "refs/main").write_text("c0ffee")
    (repo / "blobs" / sha256).write_bytes(b"")
    (repo / "snapshots/c0ffee/config.json").write_text("{}")
    (repo / "snapshots/c0ffee/model.safetensors").symlink_to(repo / "blobs" / sha256)
    from huggingface_hub import try_to_load_from_cache

    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda name, file, revision: try_to_load_from_cache(name, file, cache_dir=tmp_path, revision=revision),
    )
    assert model_source("org/m") == {"model": "m", "model_id": "org/m", "weights_sha256": sha256}
    assert commit_of("org/m") == commit_of("org/m", "c0ffee") == "c0ffee"
    assert commit_of("org/m", "another") is commit_of("org/none") is commit_of("tiny-gemma2") is None
    assert model_source("org/none") == {"model": "none", "model_id": "org/none"}
    assert model_source("/no/such: folder") == {"model": "such: folder", "model_id": "/no/such: folder"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"weights_sha256": "a"}, {"weights_sha256": "a", "model_id": "x"}, True),
        ({"weights_sha256": "a"}, {"weights_sha256": "b"}, False),
        ({"weights_sha256": "a"}, {"model_id": "checkpoint-500"}, None),
        ({"model_id": "o/m", "revision": "1"}, {"model_id": "o/m", "revision": "1"}, True),
        ({"model_id": "o/m", "revision": "1"}, {"model_id": "o/m", "revision": "2"}, None),
        ({"model_id": "tiny-gemma2"}, {"model_id": "tiny-gemma2"}, True),
        ({"model_id": "tiny-gemma2"}, {"weights_sha256": "a", "model_id": "tiny-gemma2"}, False),
        ({"model_id": "m"}, {"model_id": "m"}, None),
    ],
)
def test_weights_are_the_same_other_or_unknown(one: Any, other: Any, same: bool | None) -> None:
    assert same_weights(one, other) is same is same_weights(other, one)


@pytest.mark.slow
def test_two_folders_of_one_name_never_overwrite_each_other(fine_tunes: Path) -> None:
    a, b = (fine_tunes / name / "checkpoint-500" for name in "ab")
    assert extract(a).exit_code == 0
    path = store.user_store() / "checkpoint-500" / "spatial" / "mean_shift.safetensors"
    first = SteeringVectors.load(path)
    assert first.provenance["model_path"] == str(a)
    assert first.provenance["weights_sha256"] == hashlib.sha256((a / "model.safetensors").read_bytes()).hexdigest()
    assert extract(a, "--method", "mean_shift,random").exit_code == 0, "the same weights may be read again"
    for more in ((), ("--method", "pca")):
        refused = extract(b, *more)
        assert isinstance(refused.exception, UserError), "also under another vector's name"
        for part in (str(a), str(b), "--name", "--store", "--replace", first.provenance["weights_sha256"][:12]):
            assert part in str(refused.exception)
    assert extract(b, "--name", "b-500").exit_code == 0
    other = SteeringVectors.load(store.find("b-500/spatial", None).path)
    assert SteeringVectors.load(path).sha256 == first.sha256 and other.provenance["model_path"] == str(b)
    assert other.sha256 != first.sha256
    replaced = extract(b, "--replace")
    assert replaced.exit_code == 0 and "are of other weights" in replaced.stderr and "spatial/random" in replaced.stderr
    assert SteeringVectors.load(path).provenance["model_path"] == str(b)


@pytest.mark.slow
def test_a_moved_folder_is_the_same_model(fine_tunes: Path, tmp_path: Path) -> None:
    assert extract(fine_tunes / "a" / "checkpoint-500").exit_code == 0
    before = SteeringVectors.load(store.find("checkpoint-500/spatial", None).path)
    moved = shutil.copytree(fine_tunes / "a" / "checkpoint-500", tmp_path / "checkpoint-500")
    assert extract(moved).exit_code == 0
    after = SteeringVectors.load(store.find("checkpoint-500/spatial", None).path)
    assert after.provenance["model_path"] == str(moved) != before.provenance["model_path"]
    assert after.sha256 == before.sha256, "results and choices hold for the same vector"
    assert after.without_path().to_bytes() == before.without_path().to_bytes()


@pytest.mark.parametrize("name", [".", "with space", ".hidden"])
def test_a_folder_whose_name_no_store_takes_needs_another(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = extract(name)
    assert isinstance(refused.exception, UserError) and "name the model with --name" in str(refused.exception)


def test_a_race_of_two_models_is_won_by_the_first_vector(tmp_path: Path) -> None:
    mine = vectors(model="m", weights_sha256="a", model_path="/a/m")
    save_own(mine, tmp_path)
    with pytest.raises(UserError, match="taken by other weights: .*spatial/mean_shift.*/a/m.*/b/m"):
        save_own(vectors(model="m", concept="counting", weights_sha256="b", model_path="/b/m"), tmp_path)
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["spatial"]
    save_own(vectors(model="m", concept="counting", weights_sha256="b"), tmp_path, replace=True)


def test_an_old_file_without_weights_is_replaced_only_by_the_same_directions(tmp_path: Path) -> None:
    old = vectors(model="m", model_id="m")
    path = old.save(store.path_in_store(old, tmp_path))
    new: dict[str, Any] = {"model": "m", "model_id": "m", "weights_sha256": "a", "model_path": "/a/m"}
    with pytest.raises(UserError, match="does not record whether it was made from these weights, '/a/m'"):
        save_own(vectors(seed=1, **new), tmp_path)
    assert path.read_bytes() == old.to_bytes()
    rounded = SteeringVectors({k: v * 1.0001 for k, v in old.directions.items()}, vectors(**new).provenance)
    save_own(rounded, tmp_path)
    assert SteeringVectors.load(path).provenance["weights_sha256"] == "a"


def test_a_vector_of_other_weights_than_the_steered_model_s_is_a_warning(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "b" / "checkpoint-500", b"abc")
    facts, sha256 = ModelFacts(str(folder), 4, 48), hashlib.sha256(b"abc").hexdigest()
    spec = SteeringSpec.parse("vector=a,layer=1,alpha=1,tokens=image")
    for recorded, expected in ("c" * 64, 1), (sha256, 0), (None, 0):
        made = vectors(model="checkpoint-500", model_path="/a/checkpoint-500", weights_sha256=recorded)
        # `extract --name mine` changes the name in the store, not the model
        named = vectors(model="mine", model_id="checkpoint-500", model_path="/a/c", weights_sha256=recorded)
        for one in (made, named):
            assert len(resolve(spec, facts, {"a": one}).warnings) == expected
    (warning,) = resolve(spec, facts, {"a": vectors(model="mine", model_id="another")}).warnings
    assert "was made from mine, not for checkpoint-500" in warning
    for full in ("org/checkpoint-500", str(folder)):
        assert not resolve(spec, facts, {"a": vectors(model=full)}).warnings
    nameless = SteeringVectors(vectors().directions, {"concept": "spatial"})
    assert not resolve(spec, facts, {"a": nameless}).warnings
    mine = vectors(5, 96, model="tiny-gemma2", model_id="tiny-gemma2", model_path="/r/t", weights_sha256="c" * 64)
    (warning,) = resolve(spec, ModelFacts("tiny-paligemma2", 5, 96), {"a": mine}).warnings
    assert "'/r/t' (weights cccccccccccc)" in warning and "'tiny-gemma2' (weights " in warning
    shipped = SteeringVectors.load(store.find("tiny-gemma2/spatial", None).path)
    assert not resolve(spec, ModelFacts("tiny-paligemma2", 5, 96), {"a": shipped}).warnings


def test_an_import_replaces_no_other_content(tmp_path: Path) -> None:
    for seed in (0, 1):
        torch.save(torch.randn(3, 8, generator=torch.Generator().manual_seed(seed)), tmp_path / f"{seed}.pt")

    def imported(seed: int, *more: str) -> Result:
        words = ["import", str(tmp_path / f"{seed}.pt"), "--backbone", "o/m", "--concept", "c", *more]
        return CliRunner().invoke(app, ["vectors", *words])

    assert imported(0).exit_code == imported(0).exit_code == 0
    assert "has other content" in str(imported(1).exception)
    assert imported(1, "--name", "other").exit_code == imported(1, "--replace").exit_code == 0


def test_shared_vectors_do_not_name_a_folder_of_this_machine() -> None:
    made = vectors(model_path="/home/me/m")
    assert b"/home/me" not in made.without_path().to_bytes() and made.without_path().sha256 == made.sha256


@pytest.mark.slow
def test_a_vector_names_the_commit_of_a_backbone_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repo, commit = tmp_path / "models--org--gemma", "c" * 40
    shutil.copytree(weights_dir("tiny-gemma2"), repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs/main").write_text(commit)
    for typed in (None, "main", commit):
        assert Backbone("org/gemma", revision=typed).source["revision"] == commit
