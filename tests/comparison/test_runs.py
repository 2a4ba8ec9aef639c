"""Finding, naming and reading the runs of a comparison."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmms_steer import UserError
from lmms_steer.comparison.command import run_comparison
from lmms_steer.comparison.provenance import run_provenance
from lmms_steer.comparison.runs import newest_evaluation, read_results
from lmms_steer.comparison.samples import read_samples
from lmms_steer.comparison.studies import read_maps
from lmms_steer.comparison.systems import read_comparison
from tests.helpers.runs import BASE, STAMP, STEERED, TASK_CONFIG, leaderboard, write_run, write_study


def test_answers_may_contain_unicode_line_separators(tmp_path: Path) -> None:
    place = write_run(tmp_path / "baseline", {"a": BASE}, answer=lambda i, score: "one LINE two") / "tiny"
    path = place / f"{STAMP}_samples_a.jsonl"
    path.write_text(path.read_text().replace("LINE", "\u2028\u0085"), encoding="utf-8")
    samples = read_samples(read_results(newest_evaluation(tmp_path)), "a")
    assert [row["filtered_resps"] for row in samples.read_logged()] == ["one \u2028\u0085 two"] * 100


def test_lm_eval_files_are_read(tmp_path: Path) -> None:
    for name, scores in (("baseline", BASE), ("s", STEERED)):
        folder = tmp_path / name / "org__model"
        folder.mkdir(parents=True)
        stamp = "2026-01-01T00-00-00.123456"
        content: dict[str, Any] = {"results": {"a": {}}}
        content["config"] = {"model": "hf", "model_args": {"pretrained": "org/model"}}
        content["config"]["steering"] = {"spec": "" if name == "baseline" else "vector=v,layer=3,alpha=0.5,tokens=text"}
        (folder / f"results_{stamp}.json").write_text(json.dumps(content))
        rows = [
            {"doc_id": i, "target": "x", "prompt_hash": f"p{i}", "filter": kind, "metrics": ["acc"], "acc": score,
             "filtered_resps": ["x"], "arguments": {"gen_args_0": {"arg_0": f"question {i}"}}}
            for kind in ("strict", "loose") for i, score in enumerate(scores)
        ]  # fmt: skip
        (folder / f"samples_a_{stamp}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    compared = leaderboard(tmp_path)
    assert compared["a", "s"].n == 100 and compared["a", "s"].gain == pytest.approx(0.1)
    assert compared["a", "s"].role == "steered"
    provenance = run_provenance(compared["a", "s"].samples[0])
    assert (
        provenance.command
        == "lm_eval --model hf --model_args pretrained=org/model --tasks a --output_path runs --log_samples"
    )


def test_of_a_task_with_several_filters_the_first_one_s_scores_count(tmp_path: Path) -> None:
    strict, lenient = [{"name": name, "filter": [{"function": "take_first"}]} for name in ("strict", "lenient")]
    results = {"configs": {"a": {**TASK_CONFIG, "filter_list": [strict, lenient]}}}
    for name, scores in (("baseline", BASE), ("s", STEERED)):
        place = write_run(tmp_path / name, {"a": scores}, results=results) / "tiny"
        # lmms-eval writes every document once a filter, and no filter's name
        path = place / f"{STAMP}_samples_a.jsonl"
        lines = path.read_text().splitlines()
        second = [json.dumps({**json.loads(line), "acc": 1.0, "score": 1.0}) for line in lines]
        path.write_text("\n".join([*lines, *second]) + "\n")
    row = leaderboard(tmp_path)["a", "s"]
    assert row.n == 100 and row.score == pytest.approx(0.7) and row.gain == pytest.approx(0.1)
    path.write_text("\n".join([*lines, *second, lines[3]]) + "\n")
    with pytest.raises(UserError, match="has document 3 twice"):
        leaderboard(tmp_path)


def test_baseline_is_found_or_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path / "plain", {"a": BASE})
    write_run(tmp_path / "s", {"a": STEERED}, spec="vector=v")
    assert leaderboard(tmp_path)["a", "plain"].role == "baseline"
    assert leaderboard(tmp_path, baseline="s")["a", "plain"].gain == pytest.approx(-0.1)
    assert leaderboard(tmp_path / "s", baseline=str(tmp_path / "plain"))["a", "s"].gain == pytest.approx(0.1)
    write_run(tmp_path / "another", {"a": BASE})
    with pytest.raises(UserError, match="several runs are of an unsteered model: .* one of another, plain$"):
        leaderboard(tmp_path)
    for number in range(8):
        write_run(tmp_path / f"steered/s{number}", {"a": STEERED}, spec="vector=v")
    expected = "no run is known to be of an unsteered model: .* one of s0, s1, s2, s3, s4, s5 and 2 others$"
    with pytest.raises(UserError, match=expected):
        leaderboard(tmp_path / "steered")
    with pytest.raises(UserError, match="unknown run for --baseline 'plian': did you mean 'plain'"):
        leaderboard(tmp_path, baseline="plian")


def test_systems_are_named_by_their_shortest_unambiguous_path(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE})
    write_run(tmp_path / "x/one", {"a": BASE})
    write_run(tmp_path / "x/two", {"a": BASE})
    assert list(read_comparison([str(tmp_path)]).systems) == ["baseline", "x/one", "x/two"]
    named = read_comparison([str(tmp_path / "x/one"), f"mine={tmp_path}/baseline"], "mine")
    assert list(named.systems) == ["mine", "one"]


def test_equal_names_below_several_folders_are_preceded_by_the_folder(tmp_path: Path) -> None:
    for place in ("baseline", "mine", "tiny/col/baseline", "tiny/col/steered", "other/col/baseline", "other/col/one"):
        write_run(tmp_path / place, {"a": BASE})
    folders = [str(tmp_path / name) for name in ("baseline", "mine", "other", "tiny")]
    names = ["baseline", "mine", "other/col/baseline", "col/one", "tiny/col/baseline", "col/steered"]
    assert list(read_comparison(folders, "baseline").systems) == names
    with pytest.raises(UserError, match=r"two runs have the name .*; give the second another name"):
        read_comparison([*folders, str(tmp_path / "tiny")], "baseline")


def test_what_a_recipe_has_replaced_is_no_system_and_no_study(tmp_path: Path) -> None:
    demo = tmp_path / "demo"
    for name, scores in (("baseline", BASE), ("s", STEERED)):
        write_run(demo / "runs" / name, {"a": scores}, spec="vector=v,layer=1" if name == "s" else "")
        write_run(demo / "replaced" / f"evaluate-{name}-1", {"a": BASE}, spec="vector=v,layer=2" if name == "s" else "")
    for folder in ("search", "replaced/search-1"):
        write_study(demo / folder, {(1, 1.0): 0.1})
    # a folder of this name that no recipe made holds runs like any other
    assert len(read_comparison([str(demo)], "runs/baseline").systems) == 4
    (demo / ".run").mkdir()
    for typed, below in ((demo, ""), (tmp_path, "demo/")):
        assert [*read_comparison([str(typed)]).systems] == [f"{below}runs/baseline", f"{below}runs/s"]
        assert [one.study for one in read_maps([typed])] == ["search"]
    replaced = demo / "replaced"
    assert [*read_comparison([str(replaced)]).systems] == ["evaluate-baseline-1", "evaluate-s-1"]
    assert newest_evaluation(replaced / "evaluate-s-1").samples


def test_newest_run_of_a_task_counts_and_other_tasks_stay(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE, "b": BASE})
    write_run(tmp_path / "s", {"a": BASE, "b": BASE})
    write_run(tmp_path / "s", {"a": STEERED}, stamp="20260102_000000")
    rows = leaderboard(tmp_path)
    assert (rows["a", "s"].fixed, rows["b", "s"].fixed) == (15, 0)


def test_bad_input_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no finished evaluation in .*empty"):
        leaderboard(tmp_path / "empty")
    with pytest.raises(UserError, match="no such folder: .*nowhere"):
        leaderboard(tmp_path / "nowhere")
    good = write_run(tmp_path / "baseline", {"a": BASE})
    with pytest.raises(
        UserError,
        match="two runs have the name 'baseline': .*; give the second another name, NAME=.*again",
    ):
        leaderboard(good, f"baseline={write_run(tmp_path / 'again', {'a': BASE})}")
    place = write_run(tmp_path / "cut", {"a": BASE}) / "tiny"
    samples = place / f"{STAMP}_samples_a.jsonl"
    whole = samples.read_text()
    samples.write_text(whole[:5_000])
    with pytest.raises(UserError, match=r"samples_a.jsonl' is cut off after 15 samples"):
        leaderboard(good, tmp_path / "cut")
    samples.write_text("\n".join(whole.splitlines()[:70]) + "\n")
    with pytest.raises(UserError, match="is cut off: it holds 70 of 100 samples"):
        leaderboard(good, tmp_path / "cut")
    samples.write_text(whole + whole.splitlines()[3] + "\n")
    with pytest.raises(UserError, match="has document 3 twice"):
        leaderboard(good, tmp_path / "cut")
    samples.write_text(whole)
    results = place / f"{STAMP}_results.json"
    other = place / f"{STAMP}_samples_b.jsonl"
    other.write_text(whole)
    with pytest.raises(UserError, match="samples_b.jsonl' does not belong to .*, which has no task 'b'"):
        leaderboard(good, tmp_path / "cut")
    other.unlink()
    results.write_text(results.read_text()[:-30])
    with pytest.raises(UserError, match="_results.json' is cut off"):
        leaderboard(good, tmp_path / "cut")
    results.unlink()
    with pytest.raises(UserError, match="samples_a.jsonl' has no results file next to it"):
        leaderboard(good, tmp_path / "cut")
    bare = write_run(tmp_path / "bare", {"a": BASE})
    (bare / "tiny" / f"{STAMP}_samples_a.jsonl").unlink()
    with pytest.raises(UserError, match="run 'bare' has no samples: evaluate with --log_samples"):
        leaderboard(good, bare)


def test_a_run_without_samples_is_left_out_and_the_rest_is_compared(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE, "b": BASE})
    write_run(tmp_path / "s", {"a": STEERED, "b": STEERED})
    bare = write_run(tmp_path / "bare", {"a": BASE}) / "tiny"
    (bare / f"{STAMP}_samples_a.jsonl").unlink()
    (tmp_path / "s/tiny" / f"{STAMP}_samples_b.jsonl").unlink()
    lines = [str(line) for line in run_comparison([str(tmp_path)], html=tmp_path / "x.html", pictures="none")]
    warning = f"WARNING: left out: run 'bare' has no samples: evaluate with --log_samples ({bare})"
    assert warning in lines
    assert any("run 's' has no samples of b: evaluate with --log_samples" in line for line in lines)
    assert "left out: run &#39;bare&#39; has no samples: evaluate" in (tmp_path / "x.html").read_text()
    rows = leaderboard(tmp_path)
    assert set(rows) == {("a", "baseline"), ("b", "baseline"), ("a", "s")} and rows["a", "s"].fixed == 15


def test_another_run_does_not_take_the_place_of_a_baseline_without_samples(tmp_path: Path) -> None:
    for name, spec in (("baseline", ""), ("plain", ""), ("s", "vector=v")):
        write_run(tmp_path / name, {"a": BASE}, spec=spec)
    (tmp_path / f"baseline/tiny/{STAMP}_samples_a.jsonl").unlink()
    with pytest.raises(UserError, match="run 'baseline' has no samples: evaluate with --log_samples"):
        leaderboard(tmp_path)
    assert leaderboard(tmp_path, baseline="plain")["a", "plain"].role == "baseline"


def test_newer_results_without_samples_are_not_replaced_by_older_ones(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE})
    write_run(tmp_path / "s", {"a": STEERED})
    write_run(tmp_path / "s", {"a": BASE}, stamp="20260102_000000")
    (tmp_path / "s/tiny/20260102_000000_samples_a.jsonl").unlink()
    with pytest.raises(UserError, match="nothing can be compared with baseline: run 's' has no samples"):
        leaderboard(tmp_path)


def test_studies_files_and_empty_folders_among_runs_are_left_out_in_a_line_each(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_run(runs / "baseline", {"a": BASE})
    write_run(runs / "s", {"a": STEERED})
    write_study(runs / "kitchen", {(1, 0.5): 0.1})
    (runs / "begun").mkdir()
    (runs / "begun/plan.json").write_text("{}")
    (runs / "empty").mkdir()
    (runs / "board.html").write_text("")
    lines = [str(line) for line in run_comparison(sorted(map(str, runs.iterdir())))]
    for name in ("kitchen", "begun"):
        study = f"'{runs / name}' is a study of lmms-steer search, not a run: --study {runs / name} shows its maps"
        assert f"left out: {study}" in lines
    assert f"left out: '{runs / 'board.html'}' is a file, not a run's folder" in lines
    assert f"WARNING: left out: no finished evaluation in '{runs / 'empty'}': there is no *_results.json" in lines
    with pytest.raises(UserError, match="is a study of lmms-steer search, not a run"):
        leaderboard(runs / "kitchen")


def test_samples_are_read_without_scipy() -> None:
    # a recipe checks its cells' samples on every start
    code = "import sys, lmms_steer.comparison.samples; print('scipy' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_evaluations_of_several_systems_in_one_folder_are_systems_of_their_own(tmp_path: Path) -> None:
    record: dict[str, Any] = {"model": "tiny", "spec": "", "sha256": None, "vectors": []}
    steered = {**record, "spec": "vector=v,layer=1", "sha256": "5" * 64}
    contrast = {"name": "vcd", "alpha": 1.0, "control": False}
    systems: list[tuple[str, dict[str, Any], str]] = [
        ("m: unsteered", record, ""),
        ("m: vector=v,layer=1 (55555555)", steered, ",vector=v"),
        ("m: vector=v,layer=1 (66666666)", {**steered, "sha256": "6" * 64}, ",vector=v"),
        ("m: answer_bias=A:1.0", {**record, "answer_bias": {"A": 1.0}}, ",answer_bias=b.yaml"),
        ("m: contrast=vcd,contrast_alpha=1.0", {**record, "contrast": contrast}, ",contrast=vcd"),
        ("m: prompt_prefix=look", record, ",prompt_prefix=look"),
    ]
    for day, (_, steering, args) in enumerate(systems, 1):
        write_run(
            tmp_path / "m", {"a": STEERED if day > 1 else BASE}, spec=None, stamp=f"202601{day:02}_000000",
            results={"steering": steering}, config={"model_args": f"pretrained=tiny{args}"},
        )  # fmt: skip
    rows = leaderboard(tmp_path / "m", baseline="m: unsteered", allowed=["prompts"])
    assert [system for _, system in rows] == [name for name, _, _ in systems]
    assert rows["a", "m: unsteered"].score == 0.6
    assert [row.gain for row in list(rows.values())[1:]] == pytest.approx([0.1] * 5)
    assert rows["a", "m: answer_bias=A:1.0"].role == "control"
    with pytest.raises(
        UserError, match="--baseline .*/m holds 6 systems: give the name of one of m: unsteered, m: vec"
    ):
        leaderboard(tmp_path / "m", baseline=str(tmp_path / "m"))
    # of one system the newest evaluation counts, and its other tasks stay
    write_run(tmp_path / "m", {"b": BASE}, stamp="20260201_000000", config={"model_args": "pretrained=tiny"})
    write_run(tmp_path / "m", {"a": STEERED}, stamp="20260202_000000", config={"model_args": "pretrained=tiny"})
    rows = leaderboard(tmp_path / "m", baseline="m: unsteered", allowed=["prompts"])
    assert rows["a", "m: unsteered"].score == 0.7 and rows["b", "m: unsteered"].score == 0.6
