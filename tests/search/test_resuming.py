"""Studies that are interrupted, shared by processes, damaged, or of another search."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lmms_steer import UserError
from lmms_steer.harness import steered
from lmms_steer.search.plan import plan_differences
from lmms_steer.vectors import store
from tests.helpers.searches import exit_status, result_of, search_in_fork, search_into


@pytest.mark.slow
@pytest.mark.usefixtures("few_questions")
@pytest.mark.parametrize("strategy", ["race+screen", "tpe"])
def test_a_search_killed_ten_times_equals_an_uninterrupted_one(tmp_path: Path, strategy: str) -> None:
    settings = {"strategy": strategy, "batch_size": 8, "trials": 10, "layers": "1-3"}
    search_into(tmp_path / "whole", **settings)
    folder, drawn, stamps = tmp_path / "killed", random.Random(strategy), dict[str, int]()
    for done in range(10):
        process = search_in_fork(folder, **settings)
        # the n-th kill falls somewhere in the n-th tenth of the batches, or later
        wanted = done * 0.6 + drawn.random()
        while len(list(folder.glob("batches/*.parquet"))) < wanted:
            assert os.waitpid(process, os.WNOHANG) == (0, 0), "it ended before it was killed"
            time.sleep(0.002)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
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
    workers = [search_in_fork(tmp_path / "two", strategy=strategy) for _ in range(2)]
    assert [exit_status(worker) for worker in workers] == [0, 0]
    assert result_of(tmp_path / "two") == result_of(one) and (
        strategy == "race" or result_of(one) == result_of(finished_study)
    )
    assert (tmp_path / "two" / "cells.parquet").read_bytes() == (one / "cells.parquet").read_bytes()


@pytest.mark.slow
def test_a_damaged_batch_is_named_in_the_error(tmp_path: Path) -> None:
    search_into(tmp_path, limit=32)
    (batch,) = list((tmp_path / "batches").glob("*-00000.parquet"))
    batch.write_bytes(b"half")
    with pytest.raises(UserError, match=r"000-00000.parquet' is damaged: delete it"):
        search_into(tmp_path, limit=32)


@pytest.mark.slow
def test_a_batch_of_other_cells_is_refused(tmp_path: Path) -> None:
    search_into(tmp_path, limit=16, controls=0)
    (batch,) = (tmp_path / "batches").glob("*.parquet")
    table = pq.read_table(batch)
    other = {**table.schema.metadata, b"cells": b'[["counting", 0, 9.0, "image"]]'}
    pq.write_table(table.replace_schema_metadata(other), batch)
    with pytest.raises(UserError, match=r"000-00000.parquet' is of other cells or questions"):
        search_into(tmp_path, limit=16, controls=0)


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
        ({}, []),
    ],
)  # fmt: skip
def test_a_consequence_of_a_difference_is_not_named_as_another_one(
    tmp_path: Path, mine: dict[str, Any], expected: list[str]
) -> None:
    theirs = {"task": "t", "n": 4, "seed": 0, "questions": "a" * 64, "vectors": {"v": "a", "w": "b"}}
    (tmp_path / "plan.json").write_text(json.dumps({**theirs, "model": "m", "layers": [0, 1, 2, 3]}))
    assert plan_differences(tmp_path, mine) == expected
    assert plan_differences(tmp_path / "none", mine) is None
