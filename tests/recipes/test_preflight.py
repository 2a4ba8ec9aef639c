"""What a plan reports before it runs: missing inputs, and models that need more memory than there is."""

import json
import os
from math import prod
from pathlib import Path
from typing import Any

import pytest

from lmms_steer.recipes import layout, preflight
from lmms_steer.recipes.cells import Cell
from lmms_steer.recipes.command import run_recipe
from lmms_steer.recipes.ledger import Ledger
from lmms_steer.recipes.loading import load_recipe
from lmms_steer.recipes.plan import Planner
from lmms_steer.recipes.schema import Model
from lmms_steer.recipes.worker import run_cell
from tests.helpers.servers import Answer, http_server


@pytest.mark.slow
def test_a_dry_run_lists_missing_backbones_saes_and_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    plan = "\n".join(run_recipe("paper_cvbench", dry_run=True))
    assert "# the backbone google/gemma-2-9b is not on this disk" in plan
    assert "# gemma-2-2b's SAEs come from gemma-scope-2b-pt-res-canonical" in plan
    assert "# WARNING: OPENAI_API_KEY is not set" in plan
    assert "# judge: up to 3,840 features to check, one request each\n" in plan, "16 for 60 layers and 4 concepts"
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("LMMS_STEER_JUDGE_MODEL", "judge-1")
    tokens = list[Any]()

    def answer(path: str, body: bytes) -> Answer:
        tokens.append(json.loads(body)["max_completion_tokens"])
        return 200, b'{"choices": [{"message": {"content": "ok"}}]}', {}

    with http_server(answer) as address:
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        plan = "\n".join(run_recipe("paper_cvbench", dry_run=True))
        unjudged = "\n".join(run_recipe("paper_cvbench", None, (), ["methods.sae.judge=none"], dry_run=True))
    assert "OPENAI_API_KEY" not in plan and "secret" not in plan and "WARNING" not in plan
    assert f"# judge: up to 3,840 features to check, one request each, by judge-1 at {address}" in plan
    assert tokens == [1], "a plan spends one token, and none where nothing is judged"
    assert "# judge:" not in unjudged
    plan = "\n".join(run_recipe("paper_cvbench", dry_run=True))
    assert (
        f"# WARNING: the judge judge-1 at {address} cannot be reached (Connection refused); or set judge: none" in plan
    )


@pytest.mark.usefixtures("smol_package")
def test_saes_of_a_folder_that_is_not_there_are_a_missing_file_and_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    own = ["methods.sae.stored=false", "methods.sae.sae=retrained/smol-saes/sae", "methods.sae.judge=none"]
    plan = "\n".join(run_recipe("smol", None, ["smol_sae"], own, dry_run=True))
    warning = (
        "# WARNING: a file that its cells read does not exist (retrained/smol-saes/sae): make what is missing first"
    )
    assert warning in plan and "fetched" not in plan
    Path("retrained/smol-saes/sae").mkdir(parents=True)
    plan = "\n".join(run_recipe("smol", None, ["smol_sae"], own, dry_run=True))
    assert "WARNING" not in plan
    monkeypatch.setenv("HOME", str(tmp_path))
    at_home = [*own, "methods.sae.sae=~/retrained/smol-saes/sae"]
    assert "WARNING" not in "\n".join(run_recipe("smol", None, ["smol_sae"], at_home, dry_run=True))


@pytest.mark.slow
def test_a_dry_run_lists_missing_datasets_and_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("LMMS_STEER_DATA", str(tmp_path / "data"))
    assignments = [f"chosen_in={tmp_path}", "studies.clevr.test=superclevr"]

    def report() -> str:
        lines = run_recipe("paper_ood", None, ["stand_in"], assignments, dry_run=True)
        return "\n".join(line for line in lines if line.startswith("# ") and "\n" not in line)

    before = report()
    assert "# steer_blink_spatial_relation, steer_blink_relative_depth and 1 more: BLINK-Benchmark/BLINK is" in before
    assert "superclevr: '" in before and "holds no finished copy of superclevr: run lmms-steer data import" in before
    assert f"WARNING: 18 files that its cells read do not exist (the first is {tmp_path}/search/paligemma2-3b" in before
    assert before.endswith(f"run the recipe of {tmp_path} before this one")
    laid_over = tmp_path.with_name(f"{tmp_path.name}-stand_in")
    laid_over.mkdir()
    assert report().endswith(f"before this one, or use --set chosen_in={laid_over}")
    (tmp_path / "hub/datasets--BLINK-Benchmark--BLINK/snapshots/a").mkdir(parents=True)
    copy = tmp_path / "data/superclevr"
    copy.mkdir(parents=True)
    (copy / "manifest.json").write_text('{"rows": {"test": 1}, "files": {"test": ["a"]}, "columns": []}')
    _, loaded = load_recipe("paper_ood", ["stand_in"], assignments)
    for cell in Planner(loaded, tmp_path).cells():
        for path in map(Path, cell.reads):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert not any(word in report() for word in ("BLINK", "no finished copy", "WARNING"))


def write_weights(path: Path, *shape: int) -> None:
    """A safetensors file of one float32 tensor; its zeros take no room on the disk."""
    size = 4 * prod(shape)
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    os.truncate(path, 8 + len(header) + size)


def test_the_size_of_a_checkpoint_is_that_of_the_files_that_transformers_loads(tmp_path: Path) -> None:
    def size(dtype: str, on_cpu: bool = False) -> int | None:
        return preflight.weight_bytes(str(tmp_path), dtype, on_cpu)

    write_weights(tmp_path / "model.safetensors", 10**6, 1000)
    assert size("bfloat16") == 2 * 10**9 and size("auto") == size("auto", on_cpu=True) == 4 * 10**9
    # the same weights in another layout are not loaded
    write_weights(tmp_path / "consolidated.safetensors", 10**6, 1000)
    assert size("bfloat16") == 2 * 10**9
    (tmp_path / "model.safetensors").rename(tmp_path / "one.safetensors")
    index = {"weight_map": {"w": "one.safetensors", "v": "one.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert size("bfloat16") == 2 * 10**9
    quantised = Model(pretrained="m", args={"load_in_4bit": "True"})
    assert layout.loaded_weights(quantised) is None and layout.loaded_weights(Model(pretrained="m")) == ("m", "auto")
    assert preflight.weight_bytes("no/such-model", "auto") is None
    (tmp_path / "one.safetensors").write_bytes(b"damaged")
    assert size("bfloat16") is None


def test_a_model_larger_than_memory_fails_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(tmp_path / "model.safetensors", 10**6, 1000)
    cell = Cell("big", "evaluate", ("lmms-eval",), loads=(str(tmp_path), "bfloat16"))

    def never(command: tuple[str, ...], log: Path) -> int:
        raise AssertionError("it was run")

    monkeypatch.setattr(preflight, "_available_memory", lambda: (10**9, "memory", True))
    mark = run_cell(cell, Ledger(tmp_path), never)
    assert mark.state == "failed"
    assert "needs 2.0 GB for its weights (dtype=bfloat16), and this machine has 1.0 GB of memory" in str(mark.why)
