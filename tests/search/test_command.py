"""`lmms-steer search`: the same table whoever does the work and whatever dies, an honest choice, what it refuses."""

import json
import os
import random
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lmms_steer import SteeringSpec, UserError, steer
from lmms_steer.cli import app
from lmms_steer.harness import steered as from_args
from lmms_steer.harness import tasks as lmms_eval_tasks
from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.search import report, study
from lmms_steer.search import run as searching
from lmms_steer.search.command import run_search
from lmms_steer.search.options import SearchOptions, parse_alphas, parse_layers, parse_targets, refuse_test
from lmms_steer.search.plan import Cell
from lmms_steer.search.questions import load_questions
from lmms_steer.search.scorers import LetterScorer
from lmms_steer.search.selection import ScoreGrid, best_cell, cautious_cell, corrected_p
from lmms_steer.search.study import save_choice
from lmms_steer.steering.resolve import ModelFacts, resolve
from lmms_steer.tiny_world.question_sets import load_question_set
from lmms_steer.vectors import store

GRID = {"layers": "1-3:2", "alphas": "0.5,1.5", "controls": 1, "limit": 64, "score": "letters"}


def inside(folder: Path, task: str = "tiny_counting_select", **more: Any) -> list[str]:
    """The command without a process of its own."""
    vectors = more.pop("vectors", ("counting",))
    model = ("steered_paligemma", "pretrained=tiny-paligemma2", vectors)
    return list(run_search(SearchOptions(*model, task, folder, **{**GRID, **more})))


def forked(folder: Path, **more: Any) -> int:
    """The command in a process that shares what is loaded here, and may be killed."""
    # what datasets has locked here cannot be loaded in another process
    loaded = lmms_eval_tasks.load_task("tiny_counting_select", "steered_paligemma")
    process = os.fork()
    if process == 0:
        torch.set_num_threads(1)
        lmms_eval_tasks.load_task = lambda *_: loaded
        done = 1
        try:
            inside(folder, **more)
            done = 0
        finally:
            os._exit(done)
    return process


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "alone"
    args = "search --model steered_paligemma --model_args pretrained=tiny-paligemma2 --vector counting"
    grid = (
        "--task tiny_counting_select --layers 1-3:2 --alphas 0.5,1.5 --controls 1 --limit 64 --score letters --output"
    )
    done = CliRunner().invoke(app, [*args.split(), *grid.split(), str(folder)])
    assert done.exit_code == 0, done.output
    assert "24 cells x 64 questions" in done.output and "measure it on others" in done.output
    return folder


def test_every_cell_s_answers_are_those_of_the_model_with_hooks(alone: Path) -> None:
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2")
    rows = load_question_set("counting", "select")[:64]
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
    spec = SteeringSpec.from_yaml(alone / "choice.yaml")
    assert spec.provenance["chosen_on"] == "tiny_counting_select" and len(spec.provenance["study"]) == 64
    assert len(set(spec.provenance["some_questions"].split())) == 16
    control = SteeringSpec.from_yaml(alone / "control_random_0.yaml").interventions[0]
    assert (control.vector, control.control) == ("counting", "random:0")
    for name in ("heatmap.png", "alpha.png"):
        assert (alone / name).read_bytes()[:4] == b"\x89PNG"
    assert (
        set(result(alone)["vectors"]["counting"]["controls"]) == {"random:0"} and "gain" in result(alone)["calibrated"]
    )


@pytest.mark.parametrize("strategy", ["race+screen", "tpe"])
def test_a_search_killed_at_ten_moments_and_resumed_equals_the_uninterrupted_one(tmp_path: Path, strategy: str) -> None:
    settings = {"strategy": strategy, "batch_size": 8, "trials": 10, "layers": "1-3"}
    inside(tmp_path / "whole", **settings)
    folder, drawn, save_choice = tmp_path / "killed", random.Random(strategy), {}
    for done in range(10):
        process = forked(folder, **settings)
        # the n-th kill falls somewhere in the n-th tenth of the batches, or later
        wanted = done * 0.6 + drawn.random()
        while len(list(folder.glob("batches/*.parquet"))) < wanted:
            assert os.waitpid(process, os.WNOHANG) == (0, 0), "it ended before it was killed"
            time.sleep(0.002)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        assert all((folder / "batches" / name).stat().st_mtime_ns == stamp for name, stamp in save_choice.items())
        save_choice = {path.name: path.stat().st_mtime_ns for path in folder.glob("batches/*.parquet")}
    assert save_choice and not (folder / "result.json").exists(), "it was killed before its end, each time"
    inside(folder, **settings)
    assert result(folder) == result(tmp_path / "whole")
    for name in ("cells.parquet", "choice.yaml", "control_random_0.yaml"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("strategy", ["grid", "race"])
def test_two_workers_give_the_table_of_one(alone: Path, tmp_path: Path, strategy: str) -> None:
    one = tmp_path / "one"
    inside(one, strategy=strategy)
    workers = [forked(tmp_path / "two", strategy=strategy) for _ in range(2)]
    assert [ended(worker) for worker in workers] == [0, 0]
    assert result(tmp_path / "two") == result(one) and (strategy == "race" or result(one) == result(alone))
    assert (tmp_path / "two" / "cells.parquet").read_bytes() == (one / "cells.parquet").read_bytes()


def test_what_cannot_be_searched_is_told_in_one_line(alone: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"another search: --controls 1 there, 0 here: take another --output$"):
        inside(alone, controls=0)
    with pytest.raises(UserError, match="--i-know-this-is-test"):
        inside(tmp_path, task="tiny_counting")
    with pytest.raises(UserError, match="unknown task 'tiny_countin': did you mean"):
        inside(tmp_path, task="tiny_countin_select"[:12])
    with pytest.raises(UserError, match="unknown strategy 'rase': did you mean 'race'"):
        inside(tmp_path, strategy="rase")
    with pytest.raises(UserError, match="the choice is made on these questions"):
        inside(tmp_path, confirm="tiny_counting_select")
    with pytest.raises(UserError, match="unknown score 'letter': did you mean 'letters'"):
        inside(tmp_path, score="letter")
    assert "WARNING: 8 questions: a 95% interval is about ±35 points wide" in inside(tmp_path / "few", limit=8)


def test_a_task_without_a_fixed_set_of_answers_is_sent_to_generate() -> None:
    docs = [{"question": "what is it ?", "answer": "a red cat"}]
    config = SimpleNamespace(task="captions")
    task = SimpleNamespace(config=config, has_test_docs=lambda: True, test_docs=lambda: docs)
    task.doc_to_text, task.doc_to_target = (lambda doc: doc["question"]), (lambda doc: doc["answer"])
    task.doc_to_visual = lambda _: [Image.new("RGB", (8, 8))]
    with pytest.raises(UserError, match=r"captions, document 0: .* 'a red cat' is no letter.*--score generate"):
        list(load_questions(task, None))
    assert [question.answers for question in load_questions(task, None, fixed=False)] == [()]


def test_a_damaged_batch_is_named(tmp_path: Path) -> None:
    inside(tmp_path, limit=32)
    (batch,) = list((tmp_path / "batches").glob("*-00000.parquet"))
    batch.write_bytes(b"half")
    with pytest.raises(UserError, match=r"000-00000.parquet' is damaged: delete it"):
        inside(tmp_path, limit=32)


def test_written_answers_scored_by_the_task_agree_with_lmms_eval_s_own_run(tmp_path: Path) -> None:
    told = inside(tmp_path, score="generate", limit=24, tokens="image,last", layers="1", controls=0, alphas="0.5,20")
    biases = result(tmp_path)["calibrated"]
    assert biases["scored_by"] == "letters" and biases["accuracy"] == pytest.approx(biases["baseline"] + biases["gain"])
    assert any(f"among the choices only (baseline there {biases['baseline']:.3f})" in line for line in told)
    table = pq.read_table(tmp_path / "cells.parquet").to_pylist()
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2", batch_size=8)
    rows, task = (
        load_question_set("counting", "select")[:24],
        lmms_eval_tasks.load_task("tiny_counting_select", "steered_paligemma")[0],
    )
    docs = [task.test_docs()[i] for i in range(24)]
    assert any(cell["unparsed"] > 0 for cell in table), "the strongest cells break the text"
    best_cell = result(tmp_path)["vectors"]["counting"]["best"]
    same = [cell for cell in table if all(cell[key] == best_cell[key] for key in ("layer", "alpha", "tokens"))]
    assert [best_cell["unparsed"]] == [cell["unparsed"] for cell in same]
    assert f"unparsed {100 * best_cell['unparsed']:.1f}%" in next(line for line in told if "cells: layer" in line)
    share = 100 * result(tmp_path)["baseline_unparsed"]
    assert f"unparsed {share:.1f}%" in next(line for line in told if "baseline" in line)
    for cell in table:
        line = f"vector=tiny-gemma2/counting,layer=1,alpha={cell['alpha']},tokens={cell['tokens']}"
        said = []
        with steer(lm.model, line):
            for row in rows:
                inputs = lm.model_inputs([row["question"]], [[row["image"]]])
                output = lm.model.generate(**inputs, max_new_tokens=1, do_sample=False)[0, -1:]
                said.append(lm.tokenizer.decode(output).strip())
        right = [row["choices"]["ABCDEF".index(row["answer"].strip("()"))] for row in rows]
        unread = [task.process_results(row, [text])["unparsed"] for row, text in zip(docs, said, strict=True)]
        assert cell["unparsed"] == pytest.approx(np.mean(unread)), cell
        assert cell["accuracy"] == pytest.approx(np.mean([a == b for a, b in zip(said, right, strict=True)])), cell


def test_every_strategy_writes_the_same_study_and_says_when_nothing_won(tmp_path: Path) -> None:
    for strategy in ("race", "screen", "tpe"):
        folder = tmp_path / strategy
        said = inside(folder, strategy=strategy, layers="1-3", trials=9, controls=1, batch_size=64)
        won = result(folder)["vectors"]["counting"]["best"]["winner"]
        assert any("no winner" in line for line in said) != won
        assert any("choice.yaml holds this cell all the same" in line for line in said) != won
        names = {path.name for path in folder.iterdir()}
        assert names >= {"plan.json", "cells.parquet", "result.json", "choice.yaml", "choice_1se.yaml", "study.log",
                         "control_random_0.yaml", "answer_bias.yaml", "heatmap.png", "alpha.svg"}  # fmt: skip
        cells = pq.read_table(folder / "cells.parquet").to_pylist()
        assert any(cell["dropped"] for cell in cells) == strategy.startswith("race")


def test_a_choice_is_confirmed_on_another_task_beside_its_controls(tmp_path: Path) -> None:
    said = inside(tmp_path, limit=32, controls=2, confirm="tiny_counting_ood", batch_size=250)
    confirmed = result(tmp_path)["confirmed"]
    assert confirmed["n"] == 1000 and set(confirmed["vectors"]) == {
        "counting",
        "counting,control=random:0",
        "counting,control=random:1",
    }
    assert any("on 1000 other questions (tiny_counting_ood)" in line and "random:" in line for line in said)


def test_ranges_are_read_and_nonsense_refused() -> None:
    assert parse_layers("5-8,1", 26) == (5, 6, 7, 8, 1) and parse_layers("0-8:4", 26) == (0, 4, 8)
    assert parse_alphas("0.1:0.5:0.1") == (0.1, 0.2, 0.3, 0.4, 0.5) and parse_alphas("0,2") == (2.0,)
    for text in ("5-30", "a", "3-1", "0-4:0"):
        with pytest.raises(UserError, match="--layers"):
            parse_layers(text, 26)
    for text in ("0", "0:0:1", "1:2:0", "x", "1:0.5:0.1", "nan", "0.1:inf:0.1"):
        with pytest.raises(UserError, match="--alphas"):
            parse_alphas(text)
    with pytest.raises(UserError, match="unknown token target 'images': did you mean 'image'"):
        parse_targets("images")
    refuse_test("cvbench_relation_select", "test", known=False)
    for task in ("cvbench_relation", "cvbench_relation_test"):
        with pytest.raises(UserError, match="choose on held-out questions"):
            refuse_test(task, "test", known=False)
        refuse_test(task, "test", known=True)


def grid(rng: np.random.Generator, cells: int, load_questions: int, effect: float = 0.0) -> ScoreGrid:
    """A baseline right on 6 in 10; each cell changes one answer in ten by chance, and the first gains `effect`."""
    base = (rng.random(load_questions) < 0.6).astype(float)
    flips = rng.random((cells, load_questions)) < 0.1
    hits = np.where(flips, (rng.random((cells, load_questions)) < 0.6).astype(float), base)
    hits[0] = np.where(rng.random(load_questions) < effect, 1.0, hits[0])
    return ScoreGrid([Cell("v", i, 1.0 + i, "image") for i in range(cells)], hits, base)


def test_the_corrected_p_holds_its_rate_with_no_effect_and_finds_a_planted_one() -> None:
    rng = np.random.default_rng(0)
    null = [grid(rng, 40, 200) for _ in range(200)]
    low = np.mean([corrected_p(g, best_cell(g)) < 0.05 for g in null])
    assert low <= 0.085, "5% of 200, and three standard errors"
    planted = [grid(rng, 40, 300, effect=0.3) for _ in range(20)]
    assert all(best_cell(g) == 0 and corrected_p(g, 0) < 0.05 for g in planted)


def test_the_weakest_near_the_best_is_taken_by_the_one_standard_error_rule() -> None:
    base = np.zeros(100)
    hits = np.zeros((3, 100))
    hits[0, :10] = 1  # far below
    hits[1, :49] = 1  # one question behind the best, and weaker
    hits[2, :50] = 1
    made = ScoreGrid([Cell("v", 0, 0.1, "image"), Cell("v", 0, 0.5, "image"), Cell("v", 0, 1.0, "image")], hits, base)
    assert best_cell(made) == 2 and cautious_cell(made) == 1


@pytest.mark.parametrize("strategy", ["grid", "race"])
def test_a_replay_found_wrong_is_measured_again_with_hooks_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    settings = {"tokens": "image", "batch_size": 4, "limit": 40, "controls": 0, "strategy": strategy}
    inside(tmp_path / "right", **settings)
    true = LetterScorer.same
    # the first batch that is checked passes, the second does not
    seen: list[int] = []
    same = staticmethod(lambda *cell: seen.append(1) or (len(seen) <= 3 and true(*cell)))
    monkeypatch.setattr(LetterScorer, "same", same)
    said = inside(tmp_path / "wrong", **settings)
    assert any("10 batches by full forwards with hooks: Cell" in line for line in said)
    assert result(tmp_path / "wrong") == result(tmp_path / "right")
    for path in (tmp_path / "wrong" / "batches").iterdir():
        assert pq.read_schema(path).metadata[b"hooked"], path


def test_a_choice_for_another_vector_is_warned_of(tmp_path: Path) -> None:
    inside(tmp_path, limit=32)
    path = tmp_path / "choice.yaml"
    path.write_text(path.read_text().replace("vector: counting", "vector: spatial"))
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2", steering=str(path))
    assert any("is not the one that layer, alpha and tokens were chosen for" in w for w in lm.resolved.warnings)


def test_a_confirmation_on_questions_that_were_searched_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tiny_counting_select_prompted: 64 of its 500 questions are among those that"):
        inside(tmp_path, confirm="tiny_counting_select_prompted")
    with pytest.raises(
        UserError, match="--confirm tiny_counting_ll is multiple_choice: this search lets the model write"
    ):
        inside(tmp_path, score="generate", confirm="tiny_counting_ll")
    assert not list(tmp_path.rglob("*.parquet"))


def test_what_could_not_be_read_is_told_beside_a_confirmation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = searching.load_questions
    monkeypatch.setattr(searching, "load_questions", lambda *args, **more: list(whole(*args, **more))[:40])
    settings = {"limit": 16, "controls": 0, "layers": "1", "alphas": "20", "tokens": "both", "score": "generate"}
    said = inside(tmp_path, confirm="tiny_counting_ood", **settings)
    confirmed = result(tmp_path)["confirmed"]
    shares = [100 * confirmed["vectors"]["counting"]["unparsed"], 100 * confirmed["baseline_unparsed"]]
    assert shares[0] > shares[1]
    assert any(f"unparsed {shares[0]:.1f}% (baseline {shares[1]:.1f}%)" in line for line in said)


def test_a_study_of_a_vector_or_questions_that_changed_since_is_refused_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, study = tmp_path / "v.safetensors", tmp_path / "study"
    path.write_bytes(store.find("counting", "tiny-gemma2").path.read_bytes())
    settings = {"vectors": (str(path),), "limit": 16, "layers": "1", "controls": 1}
    inside(study, **settings)
    inside(study, **settings)
    monkeypatch.setattr(from_args, "load_named_model", lambda *_: pytest.fail("the model is loaded"))
    with pytest.raises(UserError, match=r"another search: number of questions 16 there, 8 here; the task's questions"):
        inside(study, **{**settings, "limit": 8})
    with pytest.raises(UserError, match=r"another search: --alphas 0.5,1.5 there, 0.5 here: take"):
        inside(study, **{**settings, "alphas": "0.5"})
    path.write_bytes(store.find("spatial", "tiny-gemma2").path.read_bytes())
    with pytest.raises(
        UserError,
        match=r"another search: the vector \S+ has changed since \(sha \w{8}… ▸ \w{8}…\): take another --output$",
    ):
        inside(study, **settings)


def batches(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


def test_a_confirmation_on_other_data_than_before_is_measured_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"limit": 16, "controls": 0, "layers": "1", "confirm": "tiny_counting_ood"}
    whole, part = searching.load_questions, slice(0, 40)
    monkeypatch.setattr(searching, "load_questions", lambda *args, **more: list(whole(*args, **more))[part])
    inside(tmp_path / "again", **settings)
    first = result(tmp_path / "again")["confirmed"]
    part = slice(40, 80)
    inside(tmp_path / "again", **settings)
    inside(tmp_path / "fresh", **settings)
    found = result(tmp_path / "again")["confirmed"]
    assert found == result(tmp_path / "fresh")["confirmed"] != first
    stamps = [path.stat().st_mtime_ns for path in batches(tmp_path / "again")]
    inside(tmp_path / "again", **settings)
    assert [path.stat().st_mtime_ns for path in batches(tmp_path / "again" / "batches")] == stamps[: len(
        batches(tmp_path / "again" / "batches"))]  # fmt: skip


def test_a_batch_of_other_cells_is_not_taken_for_one_of_these(tmp_path: Path) -> None:
    inside(tmp_path, limit=16, controls=0)
    (batch,) = (tmp_path / "batches").glob("*.parquet")
    table = pq.read_table(batch)
    other = {**table.schema.metadata, b"cells": b'[["counting", 0, 9.0, "image"]]'}
    pq.write_table(table.replace_schema_metadata(other), batch)
    with pytest.raises(UserError, match=r"000-00000.parquet' is of other cells or questions"):
        inside(tmp_path, limit=16, controls=0)


@pytest.mark.parametrize("passes", [0, 3], ids=["in the search", "in the confirmation"])
def test_a_replay_found_wrong_is_hooked_in_the_search_and_in_its_confirmation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    settings = {"limit": 16, "controls": 0, "layers": "1", "confirm": "tiny_counting_ood", "batch_size": 250}
    inside(tmp_path / "right", **settings)
    true, seen = LetterScorer.same, list[int]()
    same = staticmethod(lambda *cell: seen.append(1) or (len(seen) <= passes and true(*cell)))
    monkeypatch.setattr(LetterScorer, "same", same)
    said = inside(tmp_path / "wrong", **settings)
    assert result(tmp_path / "wrong") == result(tmp_path / "right")
    assert len(seen) == passes + 1, "what was found wrong once is replayed no more"
    files = [path for path in batches(tmp_path / "wrong") if path.parent.name == "batches"]
    assert len(files) == 5 and all(pq.read_schema(path).metadata[b"hooked"] for path in files)
    assert any(line.startswith("5 batches by full forwards with hooks") for line in said)


def test_a_vector_whose_path_has_an_equals_sign_is_searched_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "a=1" / "v.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(store.find("counting", "tiny-gemma2").path.read_bytes())
    inside(tmp_path / "study", vectors=(str(path),), limit=16, layers="1", controls=2)
    assert set(result(tmp_path / "study")["vectors"][str(path)]["controls"]) == {"random:0", "random:1"}
    assert (tmp_path / "study" / "control_random_1.yaml").is_file()


def test_a_search_on_one_question_is_refused_and_a_repeated_vector_counts_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--limit 1: a search needs 2 questions at least"):
        inside(tmp_path, limit=1)
    for _ in range(2):
        inside(tmp_path, vectors=("counting", "counting"), limit=2, layers="1", controls=0)
    assert list(result(tmp_path)["vectors"]) == ["counting"]


def test_a_winner_that_is_kept_is_what_its_vector_alone_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    settings = {"controls": 0, "layers": "3", "keep": True}
    said = inside(tmp_path / "none", **settings)
    assert said[-1] == "nothing is kept for counting: no cell won" and not own_cache.exists()
    monkeypatch.setattr(study, "corrected_p", lambda *_: 0.01)
    said = inside(tmp_path / "some", **settings)
    told = result(tmp_path / "some")["vectors"]["counting"]["best"]
    path = own_cache / "vectors" / "tiny-gemma2" / "counting" / "mean_shift.choices.yaml"
    assert told["winner"] and f"kept in {path}: on tiny-paligemma2, vector=counting alone now means" in said[-1]
    resolved = resolve(SteeringSpec.parse("vector=counting"), ModelFacts("tiny-paligemma2", 5, 96))
    (chosen,) = resolved.spec.interventions
    assert (chosen.layer, chosen.alpha, chosen.tokens) == (3, told["alpha"], told["tokens"])
    assert resolved.spec.provenance["chosen_on"] == "tiny_counting_select (64 questions)"


def test_a_choice_holds_layer_alpha_and_tokens_alone() -> None:
    for line in ("vector=v,layer=1,alpha=1,tokens=text,scale=unit", "vector=v,layer=1,alpha=1,tokens=text,gamma_text=2",
                 "vector=v,layer=1,alpha=1,tokens=text; vector=w,layer=1,alpha=1,tokens=text"):  # fmt: skip
        with pytest.raises(UserError, match="a vector's choice holds layer, alpha and tokens alone"):
            save_choice(SteeringSpec.parse(line), "tiny-paligemma2")


def test_a_gain_that_rounds_to_nothing_is_plain_nothing() -> None:
    assert report.format_gain({"gain": -0.0001, "low": -0.012, "high": 0.0004}) == "0.0 points [-1.2, 0.0]"


def test_the_target_of_a_multiple_choice_task_is_a_place_among_its_choices() -> None:
    task, _ = lmms_eval_tasks.load_task("tiny_counting_ll", "steered_paligemma")
    for question, row in zip(load_questions(task, 20), load_question_set("counting", "test"), strict=False):
        assert question.answers == tuple(row["choices"])
        assert question.right == "ABCDEF".index(row["answer"].strip("()"))
