"""`lmms-steer search`: the same table whoever does the work and whatever dies, an honest choice, what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
import torch

from lmms_steer import SteeringSpec, UserError, steer
from lmms_steer.models.families import SteeredPaliGemma
from lmms_steer.search.command import run
from lmms_steer.search.plan import Cell, alpha_range, layer_range, refuse_test, token_targets
from lmms_steer.search.selection import Grid, best, corrected_p, one_standard_error
from lmms_steer.tiny_world.question_sets import load

ARGS = (
    *("--model", "steered_paligemma", "--model_args", "pretrained=tiny-paligemma2", "--vector", "counting"),
    *("--task", "tiny_counting_select", "--layers", "1-3:2", "--alphas", "0.5,1.5", "--controls", "1"),
    *("--batch_size", "16", "--limit", "64"),
)


def command(*args: str) -> list[str]:
    return [str(Path(sys.executable).parent / "lmms-steer"), "search", *args]


def searched(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*ARGS, *args, "--output", str(folder)), capture_output=True, text=True, check=False)


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "alone"
    done = searched(folder)
    assert done.returncode == 0, done.stderr
    assert "24 cells x 64 questions in 4 batches" in done.stdout and "measure it on others" in done.stdout
    return folder


def test_every_cell_s_answers_are_those_of_the_model_with_hooks(alone: Path) -> None:
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2")
    rows = load("counting", "select")[:64]
    words = sorted({choice for row in rows for choice in row["choices"]})
    ids = {word: lm.first_token(word) for word in words}
    expected = {}
    for layer, alpha, tokens in ((1, 0.5, "image"), (3, 1.5, "both")):
        hits = []
        line = f"vector=tiny-gemma2/counting,layer={layer},alpha={alpha},tokens={tokens}"
        with steer(lm.model, line), torch.inference_mode():
            for row in rows:
                inputs = lm.model_inputs([row["question"]], [[row["image"]]])
                logits = lm.model(**inputs, use_cache=False).logits[0, -1]
                said = max(row["choices"], key=lambda word, scores=logits: float(scores[ids[word]]))
                hits.append(row["choices"].index(said) == "ABCDEF".index(row["answer"].strip("()")))
        expected[layer, alpha, tokens] = np.mean(hits)
    study = optuna.load_study(
        study_name="lmms-steer",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(alone / "study.log")),
        ),
    )
    found = {(t.params["layer"], t.params["alpha"], t.params["tokens"]): t.value for t in study.trials
             if t.params["vector"] == "counting"}  # fmt: skip
    assert len(study.trials) == 24 and len(found) == 12
    for cell, accuracy in expected.items():
        assert found[cell] == pytest.approx(accuracy)


def test_the_choice_is_written_for_lmms_eval_and_the_pictures_are_there(alone: Path) -> None:
    told = result(alone)["vectors"]["counting"]["best"]
    (intervention,) = SteeringSpec.from_yaml(alone / "choice.yaml").interventions
    assert (intervention.layer, intervention.alpha, intervention.tokens) == (
        told["layer"],
        told["alpha"],
        told["tokens"],
    )
    assert "# study " in (alone / "choice.yaml").read_text()
    for name in ("heatmap.png", "alpha.png"):
        assert (alone / name).read_bytes()[:4] == b"\x89PNG"
    assert (
        set(result(alone)["vectors"]["counting"]["controls"]) == {"random:0"} and "gain" in result(alone)["calibrated"]
    )


def test_a_search_killed_by_sigkill_goes_on_and_ends_as_the_uninterrupted_one(alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        command(*ARGS, "--output", str(folder)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list(folder.glob("batches/*.parquet")) and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("batches/*.parquet")}
    assert len(kept) > 0 and not (folder / "result.json").exists()
    assert searched(folder).returncode == 0
    assert result(folder) == result(alone)
    assert all((folder / "batches" / name).stat().st_mtime_ns == stamp for name, stamp in kept.items())


def test_two_workers_give_the_table_of_one(alone: Path, tmp_path: Path) -> None:
    line = command(*ARGS, "--output", str(tmp_path / "two"))
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, error = process.communicate()
        assert process.returncode == 0, error
    assert result(tmp_path / "two") == result(alone)
    tables = [pq.read_table(path) for path in sorted((tmp_path / "two" / "batches").glob("*.parquet"))]
    assert sum(table.num_rows for table in tables) == 64


def inside(folder: Path, task: str = "tiny_counting_select", limit: int = 64, controls: int = 0) -> list[str]:
    """The command without a process of its own."""
    grid = ("1", "0.5,1.5", "image,text,both", controls, 16, limit)
    model = ("steered_paligemma", "pretrained=tiny-paligemma2")
    return list(run(*model, ["counting"], task, *grid, folder, False))


def test_a_folder_of_another_search_few_questions_and_test_splits_are_told(alone: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is the study of another search: its vectors is"):
        inside(alone)
    with pytest.raises(UserError, match="--i-know-this-is-test"):
        inside(tmp_path, task="tiny_counting")
    with pytest.raises(UserError, match="unknown task 'tiny_countin': did you mean"):
        inside(tmp_path, task="tiny_countin_select"[:12])
    assert "WARNING: 8 questions: a 95% interval is about ±35 points wide" in inside(tmp_path / "few", limit=8)


def test_ranges_are_read_and_nonsense_refused() -> None:
    assert layer_range("5-8,1", 26) == (5, 6, 7, 8, 1) and layer_range("0-8:4", 26) == (0, 4, 8)
    assert alpha_range("0.1:0.5:0.1") == (0.1, 0.2, 0.3, 0.4, 0.5) and alpha_range("0,2") == (2.0,)
    for text in ("5-30", "a", "3-1", "0-4:0"):
        with pytest.raises(UserError, match="--layers"):
            layer_range(text, 26)
    for text in ("0", "0:0:1", "1:2:0", "x"):
        with pytest.raises(UserError, match="--alphas"):
            alpha_range(text)
    with pytest.raises(UserError, match="unknown token target 'images': did you mean 'image'"):
        token_targets("images")
    refuse_test("cvbench_relation_select", "test", known=False)
    for task in ("cvbench_relation", "cvbench_relation_test"):
        with pytest.raises(UserError, match="choose on held-out questions"):
            refuse_test(task, "test", known=False)
        refuse_test(task, "test", known=True)


def grid(rng: np.random.Generator, cells: int, questions: int, effect: float = 0.0) -> Grid:
    """A baseline right on 6 in 10; each cell changes one answer in ten by chance, and the first gains `effect`."""
    base = (rng.random(questions) < 0.6).astype(float)
    flips = rng.random((cells, questions)) < 0.1
    hits = np.where(flips, (rng.random((cells, questions)) < 0.6).astype(float), base)
    hits[0] = np.where(rng.random(questions) < effect, 1.0, hits[0])
    return Grid([Cell("v", i, 1.0 + i, "image") for i in range(cells)], hits, base)


def test_the_corrected_p_holds_its_rate_with_no_effect_and_finds_a_planted_one() -> None:
    rng = np.random.default_rng(0)
    null = [grid(rng, 40, 200) for _ in range(200)]
    low = np.mean([corrected_p(g, best(g)) < 0.05 for g in null])
    assert low <= 0.085, "5% of 200, and three standard errors"
    planted = [grid(rng, 40, 300, effect=0.3) for _ in range(20)]
    assert all(best(g) == 0 and corrected_p(g, 0) < 0.05 for g in planted)


def test_the_weakest_near_the_best_is_taken_by_the_one_standard_error_rule() -> None:
    base = np.zeros(100)
    hits = np.zeros((3, 100))
    hits[0, :10] = 1  # far below
    hits[1, :49] = 1  # one question behind the best, and weaker
    hits[2, :50] = 1
    made = Grid([Cell("v", 0, 0.1, "image"), Cell("v", 0, 0.5, "image"), Cell("v", 0, 1.0, "image")], hits, base)
    assert best(made) == 2 and one_standard_error(made) == 1
