"""Other tools' files, checked with those tools' own readers; the Hub, checked against a small local server."""

import base64
import json
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lmms_steer import SteeringVectors, UserError, concepts, steer
from lmms_steer.cli import app
from lmms_steer.tiny_world.checkpoints import weights_dir
from lmms_steer.vectors import formats, hub, store
from tests.helpers.models import vectors

KNOWN = {"model": "b", "model_id": "b", "concept": "c", "method": "imported"}


def export(
    made: SteeringVectors, form: str, out: Path, layer: int | None = None, alpha: float | None = None
) -> list[str]:
    return list(formats.export_vector(made, form, out, layer, alpha))


def test_lm_eval_s_stock_steered_model_scores_as_our_steering_does(tmp_path: Path) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.hf_steered import SteeredModel
    from lm_eval.models.huggingface import HFLM

    folder, out = str(weights_dir("tiny-gemma2")), tmp_path / "v.pt"
    made = SteeringVectors.load(store.find("tiny-gemma2/spatial/mean_shift", None).path)
    export(made, "lm-eval", out, layer=3, alpha=0.5)
    pairs = [(pair.sentence[:20], pair.sentence[20:]) for pair in concepts.load("counting").pairs]
    asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    options: dict[str, Any] = {"device": "cpu", "batch_size": 4, "dtype": "float32"}
    theirs = SteeredModel(pretrained=folder, steer_path=str(out), **options).loglikelihood(asked)
    plain = HFLM(pretrained=folder, **options)
    unsteered = plain.loglikelihood(asked)
    with steer(plain.model, "vector=v,layer=3,alpha=0.5,tokens=both,phase=all", vectors={"v": made}):
        ours = plain.loglikelihood(asked)
    assert ours == theirs != unsteered


def test_gguf_is_read_by_its_own_reader_and_back(tmp_path: Path) -> None:
    made, out = vectors(4, 48), tmp_path / "v.gguf"
    assert "layer 0 is left out" in export(made, "gguf", out, alpha=2.0)[0]
    reader = gguf.GGUFReader(out)
    fields = ("general.architecture", "controlvector.layer_count", "controlvector.model_hint")
    assert [field.contents() for name in fields if (field := reader.get_field(name)) is not None] == [
        "controlvector",
        3,
        "some-backbone",
    ]
    assert [t.name for t in reader.tensors] == ["direction.1", "direction.2", "direction.3"]
    back = formats.import_vector(out, None, KNOWN)
    assert back.layers == (1, 2, 3) and back.name == "b/c/imported"
    for tensor, layer in zip(reader.tensors, back, strict=True):
        assert np.array_equal(tensor.data, made[layer] * 2) and np.array_equal(back[layer], made[layer] * 2)


def test_import_and_listing_show_the_same_layers(tmp_path: Path) -> None:
    export(vectors(5, 96), "gguf", tmp_path / "v.gguf", alpha=1.0)
    line = ["vectors", "import", str(tmp_path / "v.gguf"), "--backbone", "tiny-gemma2", "--concept", "mine"]
    for command in (line, ["vectors", "list", "mine"]):
        assert "4 layers (1-4) x 96" in CliRunner().invoke(app, command).output


def test_a_vector_of_this_package_needs_no_import(tmp_path: Path) -> None:
    path = vectors(3, 8).save(tmp_path / "v.safetensors")
    with pytest.raises(UserError, match="needs no import: .* vector=.*v.safetensors"):
        formats.import_vector(path, None, KNOWN)


def test_pt_round_trips_and_other_tools_forms_are_read(tmp_path: Path) -> None:
    made, out = vectors(3, 8), tmp_path / "v.pt"
    export(made, "pt", out)
    assert all(np.array_equal(formats.import_vector(out, None, KNOWN)[layer], made[layer]) for layer in made)
    export(made, "pt", out, layer=1)
    assert np.array_equal(formats.import_vector(out, 1, KNOWN)[1], made[1])
    for alpha in (0.0, 2.0):
        export(made, "pt", out, alpha=alpha)
        assert all(
            np.array_equal(formats.import_vector(out, None, KNOWN)[layer], made[layer] * alpha) for layer in made
        )
    export(made, "pt", out, layer=1)
    with pytest.raises(UserError, match="add --layer"):
        formats.import_vector(out, None, KNOWN)
    export(made, "lm-eval", out, layer=2, alpha=0.5)
    assert np.allclose(formats.import_vector(out, None, KNOWN)[2], made[2] * 0.5)
    torch.save({"model.layers.7": torch.ones(1, 8)}, out)
    assert formats.import_vector(out, None, KNOWN).layers == (7,)
    torch.save(torch.ones(1, 8), out)
    with pytest.raises(UserError, match="contains one direction: add --layer"):
        formats.import_vector(out, None, KNOWN)
    assert formats.import_vector(out, 5, KNOWN).layers == (5,)
    torch.save(torch.ones(3, 8), out)
    assert formats.import_vector(out, None, KNOWN).layers == (0, 1, 2)


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("/tmp/lmms-steer-was-here"),))


@pytest.mark.parametrize("form", formats.FORMATS)
@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 1e39])
def test_a_strength_at_which_a_vector_is_not_finite_is_not_exported(tmp_path: Path, form: str, alpha: float) -> None:
    with pytest.raises(UserError, match="--alpha .*: .* scaled by it overflows float32"):
        list(formats.export_vector(vectors(), form, tmp_path / "v", 2, alpha))
    assert not list(tmp_path.iterdir())


def test_a_foreign_file_runs_no_code_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    torch.save({"layers.1": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="more than tensors"):
        formats.import_vector(tmp_path / "evil.pt", None, KNOWN)
    assert not Path("/tmp/lmms-steer-was-here").exists()
    (tmp_path / "cut.pt").write_bytes((tmp_path / "evil.pt").read_bytes()[:50])
    (tmp_path / "cut.gguf").write_bytes(b"GGUF")
    torch.save({"layers.1": {"steering_vector": torch.ones(4), "action": "clamp"}}, tmp_path / "clamp.pt")
    torch.save({"weight": torch.ones(4)}, tmp_path / "other.pt")
    for name, expected in {
        "cut.pt": "cut off",
        "cut.gguf": "cut off",
        "clamp.pt": "not a plain addition",
        "other.pt": "not the direction of a numbered layer",
        "missing.pt": "no such file",
    }.items():
        with pytest.raises(UserError, match=expected):
            formats.import_vector(tmp_path / name, None, KNOWN)
    with pytest.raises(UserError, match="add --layer and --alpha"):
        export(vectors(), "lm-eval", tmp_path / "x.pt")
    with pytest.raises(UserError, match="no control vector for layer 0"):
        export(vectors(), "gguf", tmp_path / "x.gguf", layer=0)


@pytest.fixture
def small_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """The few calls of the Hub's API that push and pull make, over a dictionary of files."""
    held: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, body: Any, raw: bool = False, **headers: str) -> None:
            data = body if raw else json.dumps(body).encode()
            self.send_response(200)
            for name, value in {"Content-Length": str(len(data)), "X-Repo-Commit": "c0ffee", **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def do_POST(self) -> None:
            sent = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/api/repos/create":
                self._answer({"url": "https://huggingface.co/u/r", "name": "u/r"})
            elif "/preupload/" in self.path:
                files = json.loads(sent)["files"]
                mode = {"uploadMode": "regular", "shouldIgnore": False}
                self._answer({"files": [{"path": f["path"], **mode} for f in files]})
            elif "/commit/" in self.path:
                for line in sent.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        held[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                self._answer(
                    {"success": True, "commitUrl": "https://huggingface.co/u/r/commit/c0ffee", "commitOid": "c0ffee"}
                )
            else:
                self._answer({})

        def do_GET(self) -> None:
            if "/resolve/" in self.path:
                data = held[self.path.split("/resolve/")[1].split("/", 1)[1]]
                self._answer(data, raw=True, ETag=f'"{hash(data)}"')
            elif "/tree/" not in self.path:
                self._answer({})
            else:
                self._answer([{"type": "file", "path": n, "size": len(d), "oid": "0"} for n, d in held.items()])

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield held
    server.shutdown()


def test_pushed_vectors_come_back_with_their_choices_and_a_card(
    small_hub: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    # of a vector that ships, a choice is kept in the user's store
    choice = {"layer": 1, "alpha": 0.5, "tokens": "image", "chosen_on": "a", "vector_sha256": "0"}
    store.write_choice(
        store.choices_path(store.find("tiny-gemma2/spatial/mean_shift", None)), "tiny-paligemma2", choice
    )
    list(hub.push_vectors(["tiny-gemma2/spatial/mean_shift"], "u/r", private=True))
    list(hub.push_vectors(["tiny-gemma2/spatial/pca"], "u/r", private=True))
    card = small_hub["README.md"].decode()
    assert "library_name: lmms-steer" in card and "`tiny-gemma2/spatial/mean_shift`" in card and "spatial/pca`" in card
    small_hub["notes.safetensors"] = b"not a vector"
    lines = list(hub.pull_vectors("u/r", None, tmp_path / "store"))
    assert any(line.startswith("left out: ") for line in lines)
    for method in ("mean_shift", "pca"):
        shipped = store.find(f"tiny-gemma2/spatial/{method}", None).path
        assert (tmp_path / "store/tiny-gemma2/spatial" / shipped.name).read_bytes() == shipped.read_bytes()
    assert (tmp_path / "store/tiny-gemma2/spatial/mean_shift.choices.yaml").is_file()


def test_a_card_says_what_vectors_are_made_from() -> None:
    text = vectors()
    decoder, tower = "output of the 0-based decoder block", "With `site=vision`, direction i is added to patch i"
    card = hub.model_card([text], "u/r")
    assert "made from text alone" in card and decoder in card and tower not in card
    patches = SteeringVectors(
        {0: np.ones((4, 8), np.float32)},
        {**text.provenance, "concept": "sight", "settings": {"image_contrast": "masked", "at": "patches"}},
    )
    card = hub.model_card([patches], "u/r")
    assert "text alone" not in card and decoder not in card and tower in card
    assert f"vector={patches.name},site=vision …" in card and "| images, contrast masked, patches of the vis" in card
    asked = vectors(concept="asked", settings={"at": "last"})
    imported = SteeringVectors(text.directions, {"model": "m", "concept": "c", "method": "x", "settings": {}})
    card = hub.model_card([text, patches, asked, imported], "u/r")
    assert "text alone" not in card and decoder in card and tower in card
    assert f"`{text.name}` | sentences |" in card and f"`{imported.name}` | - |" in card
    assert f"`{asked.name}` | questions about images, tokens last |" in card and "site=vision …" not in card


def test_nothing_is_pushed_by_a_wrong_name_or_with_a_folder_of_this_machine(
    small_hub: dict[str, bytes], tmp_path: Path
) -> None:
    one, other = vectors(), vectors(seed=1)
    for name, vector in (("one", one), ("other", other)):
        vector.save(tmp_path / f"{name}.safetensors")
    with pytest.raises(UserError, match=rf"are both named {one.name}: push one"):
        list(hub.push_vectors([str(tmp_path / "one.safetensors"), str(tmp_path / "other.safetensors")], "u/r", True))
    assert not small_hub
    choice = {"layer": 1, "alpha": 0.5, "tokens": "image", "chosen_on": "a", "vector_sha256": one.sha256}
    (tmp_path / "secret" / "model").mkdir(parents=True)
    entry = store.find(str(tmp_path / "one.safetensors"), None)
    store.write_choice(store.choices_path(entry), str(tmp_path / "secret" / "model"), choice)
    list(hub.push_vectors([str(tmp_path / "one.safetensors")], "u/r", private=True))
    pushed = small_hub[f"{one.name}.choices.yaml"].decode()
    assert "alpha: 0.5" in pushed and "secret" not in pushed


def test_pull_leaves_your_files_alone_without_replace(
    small_hub: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    theirs, yours, root = vectors(), vectors(seed=1), tmp_path / "store"
    small_hub[f"{theirs.name}.safetensors"] = theirs.to_bytes()
    small_hub[f"{theirs.name}.choices.yaml"] = b"theirs: {}"
    path = store.save(yours, root)
    choices = path.with_suffix(".choices.yaml")

    def pulled(**more: bool) -> list[str]:
        return list(hub.pull_vectors("u/r", None, root, **more))

    (line,) = pulled()
    assert line.startswith(f"left out: you have {str(path)!r}") and "--replace" in line
    assert path.read_bytes() == yours.to_bytes() and not choices.exists(), "its choices are of another vector"
    store.save(theirs, root)
    choices.write_bytes(b"yours")
    assert [line.split(": ")[0] for line in pulled()] == [f"{theirs.name} -> {path}", "left out"]
    assert choices.read_bytes() == b"yours"
    store.save(yours, root)
    assert pulled(replace=True) == pulled() == [f"{theirs.name} -> {path}"], "equal content is not reported"
    assert path.read_bytes() == theirs.to_bytes() and choices.read_bytes() == b"theirs: {}"


def test_a_damaged_file_does_not_block_push_or_pull(
    small_hub: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    small_hub["damaged.safetensors"] = b"half"
    first, last = hub.push_vectors(["tiny-gemma2/spatial/pca"], "u/r", private=True)
    assert first.startswith("not on the card: ") and last == "tiny-gemma2/spatial/pca -> u/r"
    assert "spatial/pca`" in small_hub["README.md"].decode()
    damaged = tmp_path / "store/tiny-gemma2/counting/pca.safetensors"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"half")
    lines = list(hub.pull_vectors("u/r", None, tmp_path / "store"))
    assert [line.startswith("left out: ") for line in lines] == [True, False] and "damaged.safetensors" in lines[0]


def test_a_vector_s_name_cannot_lead_out_of_the_store(
    small_hub: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    small_hub["a.safetensors"] = vectors(model="..", concept="..").to_bytes()
    with pytest.raises(UserError, match="has no vector"):
        list(hub.pull_vectors("u/r", None, tmp_path / "store"))
    with pytest.raises(UserError, match="the Hub's 'no repo at all'"):
        list(hub.pull_vectors("no repo at all", None, tmp_path / "store"))
    out = vectors(model="..", concept="..", method="out").save(tmp_path / "v.safetensors")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "a/b/c"))
    (tmp_path / "a/b/c").mkdir(parents=True)
    with pytest.raises(UserError, match="'../../out' cannot be the name of a vector"):
        list(hub.push_vectors([str(out)], "u/r", private=True))
    assert not list(tmp_path.rglob("out.safetensors"))
