"""Runs and studies that are made to do harm end with one line, and tables and pages show them as text."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmms_steer import UserError
from lmms_steer.comparison import studies
from lmms_steer.comparison.leaderboard import groups_of
from lmms_steer.comparison.runs import evaluations_in, find_runs, read_results
from lmms_steer.comparison.samples import read_samples
from lmms_steer.comparison.studies import read_maps, read_searched_vectors
from tests.helpers.runs import STAMP, write_run, write_study


def results_of(folder: Path) -> Any:
    return read_results(evaluations_in(folder / "tiny")[0])


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"config": []}, r"config is \[\], not an object"),
        ({"configs": {"t": None}}, "configs.t is None, not an object"),
        ({"configs": {"t": {"tag": [[1]]}}}, "configs.t.tag is not a list of names"),
        ({"higher_is_better": {"t": {"acc": [1]}}}, "higher_is_better.t is not of true and false"),
        ({"n-samples": {"t": {"effective": "3"}}}, "n-samples.t.effective is '3', not a whole number"),
        ({"group_subtasks": {"g": [{}]}}, "group_subtasks.g is not a list of names"),
        ({"steering": {"vectors": [{"name": "v"}]}}, "steering.vectors has an entry without name and sha256"),
        ({"steering": {"spec": 1}}, "steering.spec is 1, not a text"),
        ({"results": 3}, "it holds no results"),
        ({"date": 10**400}, "a number of 401 digits"),
    ],
)
def test_a_results_file_of_other_types_is_one_line(tmp_path: Path, entry: dict[str, Any], expected: str) -> None:
    write_run(tmp_path, {"t": [1.0]}, results=entry, spec=None)
    with pytest.raises(UserError, match=expected) as caught:
        results_of(tmp_path)
    assert "_results.json" in str(caught.value)


def test_a_duration_that_is_no_number_is_unknown(tmp_path: Path) -> None:
    write_run(tmp_path, {"t": [1.0]}, results={"total_evaluation_time_seconds": "soon"})
    assert results_of(tmp_path).seconds != results_of(tmp_path).seconds


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("doc_id", 2**40, "doc_id is 1099511627776"),
        ("doc_id", -1, "doc_id is -1"),
        ("doc_id", 0.5, "doc_id is 0.5"),
        ("target", "\ud800", "surrogates not allowed"),
        ("input", json.loads("[" * 150 + "]" * 150), "nested too deeply"),
    ],
)
def test_a_sample_of_other_types_is_one_line(tmp_path: Path, field: str, value: Any, expected: str) -> None:
    write_run(tmp_path, {"t": [1.0]}, sample={field: value})
    with pytest.raises(UserError, match=expected):
        read_samples(results_of(tmp_path), "t")


def test_groups_that_contain_each_other_in_many_ways_are_resolved(tmp_path: Path) -> None:
    groups = {f"g{i}": [f"g{i + 1}", f"h{i + 1}"] for i in range(60)} | {f"h{i}": [f"g{i + 1}"] for i in range(60)}
    write_run(tmp_path, {"t": [1.0], "u": [1.0]}, results={"group_subtasks": {**groups, "g60": ["t", "u", "g0"]}})
    runs = [read_samples(results_of(tmp_path), task) for task in ("t", "u")]
    assert next(groups_of(runs, {"t", "u"})) == ("group", "g0", ["t", "u"])


def test_control_characters_in_names_of_runs_are_refused_or_escaped(tmp_path: Path) -> None:
    write_run(tmp_path / "a\x1b[2J", {"t": [1.0]})
    write_run(tmp_path / "b", {"t": [1.0]})
    assert set(find_runs([str(tmp_path)]).evaluations) == {r"a\x1b[2J", "b"}
    path = tmp_path / f"b/tiny/{STAMP}_samples_t.jsonl"
    path.rename(path.with_name(f"{STAMP}_samples_\x1b[2J.jsonl"))
    with pytest.raises(UserError, match="control characters in its name"):
        find_runs([str(tmp_path)])


CELL = {"vector": "v", "layer": 1, "alpha": 0.5, "tokens": "image", "n": 50, "gain": 0.1, "dropped": False}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([CELL] * 51, "51 rows, more than 50"),
        ([{**CELL, "vector": "v" * 200}] * 50, "50 rows with names of up to 200 bytes"),
        ([{**CELL, "layer": "x"}], "as a study's cells"),
        ([{**CELL, "alpha": float("nan")}], "not finite"),
        ([CELL, {**CELL, "n": None}], "no value"),
    ],
)
def test_cells_of_a_study_that_unpack_or_have_other_types_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]], expected: str
) -> None:
    monkeypatch.setattr(studies, "MAX_CELLS", 50)
    monkeypatch.setattr(studies, "MAX_TEXT", 5000)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "cells.parquet")
    with pytest.raises(UserError, match=expected):
        read_maps([tmp_path])


@pytest.mark.parametrize(
    "plan", ['{"task": [], "vectors": {}}', '{"task": "t", "vectors": {"v": []}}', "[" * 9999, "[]"]
)
def test_a_plan_of_other_types_is_one_line(tmp_path: Path, plan: str) -> None:
    write_study(tmp_path, {(1, 0.5): 0.1})
    (tmp_path / "plan.json").write_text(plan)
    with pytest.raises(UserError, match=r"plan.json.* cannot be read as a study's plan"):
        read_searched_vectors([tmp_path])
    with pytest.raises(UserError, match=r"plan.json.* cannot be read as a study's plan"):
        read_maps([tmp_path])
