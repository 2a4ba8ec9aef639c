"""Studies that are interrupted, shared by processes, damaged, or of another search."""

import hashlib
import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from lmms_steer import UserError
from lmms_steer.harness import steered
from lmms_steer.search.harnesses import create
from lmms_steer.search.plan import Cell, Plan, plan_differences
from lmms_steer.search.selection import ScoreGrid
from lmms_steer.search.stored_numbers import _read
from lmms_steer.search.study_files import write_journal
from lmms_steer.tiny_world.checkpoints import weights_dir
from lmms_steer.vectors import store
from tests.helpers.own_operations import once, register_as_mine, twice
from tests.helpers.searches import kill_after, result_of, search_into, start_search

FEW_QUESTIONS = "tests.helpers.searches.ask_few_questions"


@pytest.mark.slow
@pytest.mark.usefixtures("few_questions")
@pytest.mark.parametrize("strategy", ["race+screen", "tpe"])
def test_a_search_killed_four_times_equals_an_uninterrupted_one(tmp_path: Path, strategy: str) -> None:
    settings = {"strategy": strategy, "batch_size": 8, "trials": 10, "layers": "1-3"}
    search_into(tmp_path / "whole", **settings)
    folder, drawn, stamps = tmp_path / "killed", random.Random(strategy), dict[str, int]()
    for done in range(4):
        process = start_search(folder, first=FEW_QUESTIONS, **settings)
        # the n-th kill falls somewhere in the n-th quarter of the batches, or later
        wanted = done * 1.5 + drawn.random()
        kill_after(wanted, process, folder)
        assert all((folder / "batches" / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())
        stamps = {path.name: path.stat().st_mtime_ns for path in folder.glob("batches/*.parquet")}
    assert stamps and not (folder / "result.json").exists(), "it was killed before its end every time"
    search_into(folder, **settings)
    assert result_of(folder) == result_of(tmp_path / "whole")
    for name in ("cells.parquet", "choice.yaml", "control_random_0.yaml"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("few_questions")
@pytest.mark.parametrize("strategy", ["grid", "race"])
def test_two_processes_give_the_results_of_one(finished_study: Path, tmp_path: Path, strategy: str) -> None:
    one = tmp_path / "one"
    search_into(one, strategy=strategy)
    workers = [start_search(tmp_path / "two", first=FEW_QUESTIONS, strategy=strategy) for _ in range(2)]
    ends = [(worker.communicate()[1], worker.returncode) for worker in workers]
    assert [status for _, status in ends] == [0, 0], ends
    assert result_of(tmp_path / "two") == result_of(one) and (
        strategy == "race" or result_of(one) == result_of(finished_study)
    )
    assert (tmp_path / "two" / "cells.parquet").read_bytes() == (one / "cells.parquet").read_bytes()


@pytest.mark.slow
def test_damaged_files_of_a_study_are_put_aside_and_made_again(
    finished_study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "study"))
    damaged, *others = sorted((folder / "batches").glob("*.parquet"))
    stamps = [path.stat().st_mtime_ns for path in others]
    for path in (damaged, folder / "plan.json"):
        path.write_bytes(path.read_bytes()[:-20])
    lines = search_into(folder)
    assert lines[1] == f"resumed: {1 + len(others)} measured batches of questions found"
    assert [message.split(" is damaged (")[0] for message in caplog.messages] == [
        repr(str(path)) for path in (folder / "plan.json", damaged)
    ]
    assert (folder / "plan.json.damaged").is_file() and damaged.with_name(f"{damaged.name}.damaged").is_file()
    assert [path.stat().st_mtime_ns for path in others] == stamps, "only the damaged batch is measured again"
    for name in ("result.json", "cells.parquet", "plan.json", f"batches/{damaged.name}"):
        assert (folder / name).read_bytes() == (finished_study / name).read_bytes()


def test_a_journal_that_a_killed_process_had_locked_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = ScoreGrid([Cell("v", 1, 0.5, "image"), Cell("v", 2, 0.5, "image")], np.eye(2), np.zeros(2))
    monkeypatch.chdir(tmp_path)
    folder = Path("study")
    folder.mkdir()
    # Optuna's lock, from a run in a relative folder: a link that points nowhere
    (folder / "study.log.unfinished").write_text('{"op_code": 0')
    (folder / "study.log.unfinished.lock").symlink_to("study/study.log.unfinished")

    def too_long(*_: object) -> None:
        raise TimeoutError("it waits for the lock")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(60)
    try:
        write_journal(folder, grid)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert sorted(path.name for path in folder.iterdir()) == ["study.log"]


@pytest.mark.slow
def test_batches_of_other_cells_or_of_another_plan_are_refused(finished_study: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished_study, tmp_path / "study"))
    batch = min((folder / "batches").glob("*.parquet"))
    whole, table = batch.read_bytes(), pq.read_table(batch)
    other = {**table.schema.metadata, b"cells": b'[["counting", 0, 9.0, "image"]]'}
    pq.write_table(table.replace_schema_metadata(other), batch)
    with pytest.raises(UserError, match=r"000-00000.parquet' is of other cells or questions"):
        search_into(folder)
    batch.write_bytes(whole)
    (folder / "plan.json").write_text("")
    with pytest.raises(UserError, match=r"000-00000.parquet' is of another search, or of an older version: take"):
        search_into(folder, seed=1)
    # batches of older versions do not name their plan
    older = {key: value for key, value in table.schema.metadata.items() if key != b"plan"}
    pq.write_table(table.replace_schema_metadata(older), batch)
    with pytest.raises(UserError, match=r"000-00000.parquet' is of another search, or of an older version: take"):
        search_into(folder)
    assert not (folder / "plan.json").exists()
    shutil.copy(finished_study / "plan.json", folder)
    search_into(folder)


@pytest.mark.slow
def test_an_empty_record_of_a_refuted_replay_still_refutes_it(tmp_path: Path) -> None:
    settings = {"limit": 8, "controls": 0, "layers": "1"}
    search_into(tmp_path / "whole", **settings)
    folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / "study"))
    (folder / "hooked.txt").touch()
    assert any(
        "measured with hooks instead of by replay: a replay was" in line for line in search_into(folder, **settings)
    )


def test_a_damaged_screen_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "screen.json"
    assert _read(path, 2) is None and not caplog.messages
    for content in ("[0.5, 0.", "[0.5]", ""):
        path.write_text(content)
        assert _read(path, 2) is None and "screen.json' is damaged (" in caplog.messages[-1]
    path.write_text("[0.5, 0.25]")
    assert _read(path, 2) == [0.5, 0.25] and len(caplog.messages) == 3


@pytest.mark.slow
def test_a_study_of_a_changed_vector_or_changed_questions_is_refused_before_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, study = tmp_path / "v.safetensors", tmp_path / "study"
    path.write_bytes(store.find("counting", "tiny-gemma2").path.read_bytes())
    settings = {"vectors": (str(path),), "limit": 16, "layers": "1", "controls": 1}
    search_into(study, **settings)
    search_into(study, **settings)
    monkeypatch.setattr(steered, "create_model", lambda *_: pytest.fail("the model is loaded"))
    with pytest.raises(UserError, match=r"another search: number of questions 16 there, 8 here: take"):
        search_into(study, **{**settings, "limit": 8})
    with pytest.raises(UserError, match=r"another search: --alphas 0.5,1.5 there, 0.5 here: take"):
        search_into(study, **{**settings, "alphas": "0.5"})
    path.write_bytes(store.find("spatial", "tiny-gemma2").path.read_bytes())
    with pytest.raises(
        UserError,
        match=r"another search: the vector \S+ has changed since \(sha \w{8}… ▸ \w{8}…\): take another --output$",
    ):
        search_into(study, **settings)


@pytest.mark.slow
def test_everything_that_differs_is_named_at_once(
    finished_study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steered, "create_model", lambda *_: pytest.fail("the model is loaded"))
    study = tmp_path / "study"
    study.mkdir()
    plan = json.loads((finished_study / "plan.json").read_text())
    (study / "plan.json").write_text(json.dumps({**plan, "model_args": f"{plan['model_args']},dtype=bfloat16"}))
    other = {"layers": "0-3", "tokens": "image", "alphas": "0.5", "controls": 2, "limit": 32, "score": "generate",
             "strategy": "tpe", "trials": 9, "batch_size": 8, "vectors": ("spatial",)}  # fmt: skip
    with pytest.raises(UserError) as caught:
        search_into(study, **other)
    assert str(caught.value).partition(" is the study of another search: ")[2] == (
        "--model_args pretrained=tiny-paligemma2,dtype=bfloat16 there, pretrained=tiny-paligemma2 here;"
        " --batch_size 16 there, 8 here; --strategy grid there, tpe here; --trials 64 there, 9 here;"
        " --alphas 0.5,1.5 there, 0.5 here; --tokens image,text,both there, image here;"
        " --vector counting there, spatial here; --controls 1 there, 2 here; number of questions 64 there, 32 here;"
        " --score letters there, generate here; --layers 1,3 there, 0-3 here: take another --output"
    )
    assert json.loads((study / "plan.json").read_text())["layers"] == [1, 3]


@pytest.mark.parametrize(
    ("mine", "expected"),
    [
        ({"questions": "b" * 64}, ["the task's questions have changed since (sha aaaaaaaa… ▸ bbbbbbbb…)"]),
        ({"questions": "b" * 64, "seed": 1}, ["--seed 0 there, 1 here"]),
        ({"task": "t2", "n": 9, "questions": "b" * 64},
         ["--task t there, t2 here", "number of questions 4 there, 9 here"]),
        ({"vectors": {"v": "d", "w": "e"}},
         ["the vector v has changed since (sha a… ▸ d…)", "the vector w has changed since (sha b… ▸ e…)"]),
        ({"layers": [0, 1, 2, 5]}, ["--layers 0-3 there, 0-2,5 here"]),
        ({"weights": "c" * 64}, ["the checkpoint's weights are other ones (sha dddddddd… ▸ cccccccc…)"]),
        ({"weights": None}, []),
        ({"writing": "{}"}, ["the task writes and scores texts with {…} there, {} here"]),
        ({}, []),
    ],
)  # fmt: skip
def test_a_consequence_of_a_difference_is_not_named_as_another_one(
    tmp_path: Path, mine: dict[str, Any], expected: list[str]
) -> None:
    theirs = {"task": "t", "n": 4, "seed": 0, "questions": "a" * 64, "vectors": {"v": "a", "w": "b"}}
    theirs |= {"weights": "d" * 64, "writing": "{…}"}
    (tmp_path / "plan.json").write_text(json.dumps({**theirs, "model": "m", "layers": [0, 1, 2, 3]}))
    assert plan_differences(tmp_path, mine) == expected
    assert plan_differences(tmp_path / "none", mine) is None


def download(cache: Path, commit: str) -> None:
    """Put the tiny model into a Hub cache as `org/vlm`, each commit with other bytes of the same weights."""
    snapshot = cache / "models--org--vlm" / "snapshots" / commit
    if not snapshot.is_dir():
        shutil.copytree(weights_dir("tiny-paligemma2"), snapshot)
        weights = snapshot / "model.safetensors"
        save_file(load_file(weights), weights, {"format": "pt", "commit": commit})
    refs = cache / "models--org--vlm" / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text(commit)


@pytest.mark.slow
def test_a_search_that_downloads_its_checkpoint_is_resumed_and_knows_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, at, models = tmp_path / "hub", "a" * 40, list[Any]()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))

    def downloaded(options: Any) -> Any:
        download(cache, at)
        models.append(create(options))
        return models[-1]

    monkeypatch.setattr("lmms_steer.search.command.create", downloaded)
    model_args = "pretrained=org/vlm,prompt_format=paligemma"
    settings = {"vectors": ("tiny-gemma2/counting",), "limit": 8, "layers": "1", "alphas": "0.5", "controls": 0}
    search_into(tmp_path / "study", **settings, model_args=model_args)
    recorded = json.loads((tmp_path / "study" / "plan.json").read_text())["weights"]
    snapshots = cache / "models--org--vlm" / "snapshots"
    assert recorded == hashlib.sha256((snapshots / at / "model.safetensors").read_bytes()).hexdigest()
    assert any("resumed" in line for line in search_into(tmp_path / "study", **settings, model_args=model_args))
    at = "b" * 40
    with pytest.raises(UserError, match="the checkpoint's weights are other ones"):
        search_into(tmp_path / "study", **settings, model_args=model_args)
    # main is another commit now
    search_into(tmp_path / "pinned", **settings, model_args=f"{model_args},revision={'a' * 40}")
    assert json.loads((tmp_path / "pinned" / "plan.json").read_text())["weights"] == recorded
    assert [lm.steering_record["revision"][0] for lm in models] == ["a", "a", "b", "a"]


def plan_of(**known: Any) -> Plan:
    settings = {"model": "m", "model_args": "", "vectors": {"v": "a"}, "task": "t", "n": 4, "questions": "q",
                "layers": (0,), "alphas": (1.0,), "tokens": ("text",), "batch_size": 1, "strategy": "grid",
                "score": "generate", "trials": 1, "seed": 0}  # fmt: skip
    return Plan(**{**settings, **known})  # type: ignore[arg-type]


def test_what_a_study_did_not_know_when_it_began_is_not_compared(tmp_path: Path) -> None:
    # as a version wrote it that recorded neither
    begun = plan_of()
    (tmp_path / "plan.json").write_text(json.dumps({k: v for k, v in begun.to_json().items() if k != "writing"}))
    now = plan_of(weights="c" * 64, writing='{"max_new_tokens": 1}')
    assert now.write_or_check(tmp_path) == begun, "its batches name this plan"
    assert now.unknown_of(begun) == "the checkpoint's weights and the task's settings for written texts"
    assert "weights" not in json.loads((tmp_path / "plan.json").read_text())
    filtered = plan_of(writing='{"filter_list": []}')
    with pytest.raises(UserError, match="the task writes and scores texts with nothing there"):
        filtered.write_or_check(tmp_path)
    assert plan_of(writing='{"filter_list": []}', harness="lm-eval").unknown_of(begun)


def test_a_study_does_not_go_on_with_other_code_of_the_user_s_own(tmp_path: Path) -> None:
    begun = plan_of(code="c" * 64)
    assert begun.write_or_check(tmp_path) is begun
    with pytest.raises(
        UserError, match="the code of an operation, a site, a gate, a prompt format or a task of your own"
    ):
        plan_of(code="d" * 64).write_or_check(tmp_path)
    # an older version did not know it
    (tmp_path / "plan.json").write_text(json.dumps(plan_of().to_json()))
    assert begun.write_or_check(tmp_path) == plan_of() and begun.unknown_of(plan_of()) == "the functions of your own"


@pytest.mark.slow
def test_a_search_knows_the_operation_of_the_user_s_own_that_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(function: Any) -> None:
        register_as_mine(monkeypatch, function)
        search_into(tmp_path, spec="operation=mine", limit=4, layers="1", controls=0)

    search(once)
    search(once)
    with pytest.raises(UserError, match="the code of an operation, .* of your own has changed since"):
        search(twice)


@pytest.mark.slow
def test_a_search_does_not_go_on_where_the_task_scores_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(digest: str) -> None:
        monkeypatch.setattr("lmms_steer.search.command.own_scores_sha256", lambda *_: digest * 64)
        search_into(tmp_path, limit=4, layers="1", controls=0)

    search("c")
    search("c")
    with pytest.raises(UserError, match="or a task of your own has changed since"):
        search("d")


def test_weights_that_a_study_knows_are_compared_where_they_are_known(tmp_path: Path) -> None:
    begun = plan_of(weights="c" * 64, writing="{}")
    assert begun.write_or_check(tmp_path) is begun and begun.unknown_of(begun) == ""
    elsewhere = plan_of(writing="{}")
    assert elsewhere.write_or_check(tmp_path) == begun and elsewhere.unknown_of(begun) == "the checkpoint's weights"
    for other, differs in ({"weights": "d" * 64}, "weights are other ones"), ({"writing": "{…}"}, "there, {…} here"):
        with pytest.raises(UserError, match=differs):
            plan_of(**{"weights": "c" * 64, "writing": "{}", **other}).write_or_check(tmp_path)
