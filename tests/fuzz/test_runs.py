"""Runs and studies of other people, damaged: a comparison or one clear line."""

import base64
import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmms_steer.comparison.command import run_comparison
from lmms_steer.comparison.settings import DECISIVE
from lmms_steer.search.plan import check_same_plan
from lmms_steer.search.results import SearchResult
from tests.fuzz.mutations import damaged_bytes, damaged_tree, to_json, write
from tests.fuzz.running import check
from tests.helpers.runs import STAMP, write_run, write_study
from tests.search.test_results import FIRST_RELEASE

_ROWS: list[dict[str, Any]] = [
    {
        "doc_id": number,
        "target": "A",
        "filtered_resps": ["B"],
        "score": 1.0,
        "unparsed": 0.0,
        "parsed": "A",
        "input": f"Is the orange shape {number} above or below the green shape?",
        "images": ["6"],
        "doc": {"choices": ["a", "b"]},
        "arguments": {"a": {"arg_0": "Q"}},
    }
    for number in range(3)
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name, scores in (("baseline", [1.0, 0.0, 1.0]), ("steered", [1.0, 1.0, 0.0])):
        spec = "vector=v,layer=1" if name == "steered" else ""
        write_run(folder / name, {"t": scores}, spec=spec, sample={"images": ["6"]})
    write_study(folder / "study", {(1, 0.5): 0.1, (2, 0.5): -0.1})
    write(folder / "study/plan.json", json.dumps({"task": "t", "vectors": {"v": "6" * 64}}))
    # imports scipy and others, which the time of the first example should not contain
    compare(folder, folder)
    for name, data in {"results.json": to_json(_RUN), "samples_t.jsonl": _lines(_ROWS)}.items():
        damaged_run(folder, folder.parent / "undamaged", f"steered/tiny/{STAMP}_{name}", data)
    return folder


def compare(runs: Path, out: Path) -> None:
    page = out / "page.html"
    arguments = [str(runs / name) for name in ("baseline", "steered")]
    list(
        run_comparison(
            arguments, None, [runs / "study"], page, csv=out / "rows.csv", pictures="none", allow_different=DECISIVE
        )
    )
    assert "\x1b" not in page.read_text(encoding="utf-8", errors="surrogatepass")


def damaged_run(runs: Path, out: Path, file: str, data: bytes) -> None:
    folder = out / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(runs, folder)
    write(folder / file, data)
    compare(folder, out)


_SEEDS = {"random_seed": 0, "numpy_seed": 1234, "torch_seed": 1234, "fewshot_seed": 1234}
_STEERING = {"model": "tiny", "spec": "vector=v", "sha256": "5", "vectors": [{"name": "v", "sha256": "6"}],
             "provenance": {"chosen_on": "t (5 questions)", "some_questions": "a b"}}  # fmt: skip
_RUN = {
    "results": {"t": {"acc,none": 1.0}},
    "configs": {"t": {"metric_list": [{"metric": "acc"}], "score_key": "score", "tag": ["g"]}},
    "versions": {"t": 1.0},
    "n-shot": {"t": 0},
    "higher_is_better": {"t": {"acc": True}},
    "n-samples": {"t": {"original": 3, "effective": 3}},
    "config": {"model": "m", "model_args": {"a": [1]}, **_SEEDS, "resolved_cli_args": {"batch_size": "16"}},
    "total_evaluation_time_seconds": "5.5",
    "group_subtasks": {"g": ["t"]},
    "date": 1.0,
    "steering": _STEERING,
}


@given(damaged_tree([_RUN]).map(to_json) | damaged_bytes([json.dumps(_RUN).encode()]))
def test_results_files(runs: Path, seeds: Path, data: bytes) -> None:
    check("results file", lambda: damaged_run(runs, seeds, f"steered/tiny/{STAMP}_results.json", data))


def _lines(rows: list[Any]) -> bytes:
    return b"".join(to_json(row) + b"\n" for row in rows)


def test_half_a_surrogate_pair_in_an_answer_is_on_the_page(runs: Path, tmp_path: Path) -> None:
    rows = [{**_ROWS[0], "filtered_resps": ["\ud800"]}, *_ROWS[1:]]
    damaged_run(runs, tmp_path, f"steered/tiny/{STAMP}_samples_t.jsonl", _lines(rows))
    (packed,) = re.findall(r'data-task="t">([^<]*)<', (tmp_path / "page.html").read_text(encoding="utf-8"))
    shown = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert "\ud800" in json.dumps(shown, ensure_ascii=False)


@given(damaged_tree(_ROWS[:1]).map(lambda row: _lines([row, *_ROWS[1:]])) | damaged_bytes([_lines(_ROWS)]))
def test_samples_files(runs: Path, seeds: Path, data: bytes) -> None:
    for name in ("baseline", "steered"):
        check("samples file", damaged_run, runs, seeds, f"{name}/tiny/{STAMP}_samples_t.jsonl", data)


_PLAN = {"task": "t", "vectors": {"v": "6" * 64}, "n": 3, "questions": "a", "model": "m"}


@given(damaged_tree([_PLAN]).map(to_json) | damaged_bytes([json.dumps(_PLAN).encode()]))
def test_plans(runs: Path, seeds: Path, data: bytes) -> None:
    check("plan of a study", lambda: damaged_run(runs, seeds, "study/plan.json", data))
    check("plan of a study", lambda: check_same_plan(seeds / "damaged/study", {**_PLAN, "vectors": ["v"]}))


def _cells(rows: list[Any]) -> bytes:
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return bytes(buffer.getvalue())


_CELL = {"vector": "v", "layer": 1, "alpha": 0.5, "tokens": "image", "n": 50, "gain": 0.1, "dropped": False}
_ODD = st.sampled_from([None, "x", -1, 2**62, float("nan"), float("inf"), 1e308, True, "\x1b[31m", 0])


@given(
    damaged_bytes([_cells([_CELL])])
    | st.dictionaries(st.sampled_from(list(_CELL)), _ODD).map(lambda odd: _cells([{**_CELL, **odd}] * 2))
)
def test_cells_of_studies(runs: Path, seeds: Path, data: bytes) -> None:
    check("cells of a study", lambda: damaged_run(runs, seeds, "study/cells.parquet", data))


@given(damaged_tree([json.loads(FIRST_RELEASE)]).map(to_json) | damaged_bytes([FIRST_RELEASE.encode()]))
def test_results_of_searches(seeds: Path, data: bytes) -> None:
    write(seeds / "result.json", data)
    check("result of a search", lambda: SearchResult.read(seeds).to_json())
