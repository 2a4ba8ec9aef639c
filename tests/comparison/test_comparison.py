"""`lmms-steer compare`: runs as harnesses write them ▸ a board that can be trusted, and tables of it."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console
from scipy.stats import binom
from statsmodels.stats.multitest import multipletests

from lmms_steer import UserError
from lmms_steer.comparison.command import run_comparison
from lmms_steer.comparison.figures import draw_comparison
from lmms_steer.comparison.leaderboard import Row, build_leaderboard
from lmms_steer.comparison.provenance import provenance
from lmms_steer.comparison.runs import newest_evaluation, read_results
from lmms_steer.comparison.samples import read_samples
from lmms_steer.comparison.systems import read_systems
from lmms_steer.demo.layout import Folders, collect_rows
from lmms_steer.models.visuals import image_ids
from lmms_steer.search.questions import Question, sample_ids
from lmms_steer.statistics.paired import compare_by_document
from tests.helpers.runs import STAMP, write_run

BASE = [1.0] * 60 + [0.0] * 40
STEERED = [1.0] * 55 + [0.0] * 5 + [1.0] * 15 + [0.0] * 25


def board(*runs: Path | str, **more: Any) -> dict[tuple[str, str], Row]:
    return {(row.task, row.system): row for row in build_leaderboard(read_systems([str(one) for one in runs], **more))}


def by_document(values: list[float]) -> dict[str, float]:
    return {str(i): float(v) for i, v in enumerate(values)}


def test_gain_and_mcnemar_equal_a_hand_count() -> None:
    result = compare_by_document(by_document(BASE), by_document(STEERED))
    assert (result.n, result.fixed, result.broken) == (100, 15, 5)
    assert result.gain == pytest.approx(0.10) and result.accuracy == pytest.approx(0.70)
    # twice the smaller tail of a fair coin, less what was seen
    assert result.p == pytest.approx(2 * binom.cdf(5, 20, 0.5) - binom.pmf(5, 20, 0.5))
    spread = 1.96 * np.std(np.array(STEERED) - np.array(BASE)) / 10
    assert [result.low, result.high] == pytest.approx([0.10 - spread, 0.10 + spread], abs=0.02)


def test_equal_runs_differ_by_nothing_and_the_interval_says_how_little_is_known() -> None:
    result = compare_by_document(by_document(BASE), by_document(BASE))
    assert (result.gain, result.p) == (0, 1)
    assert [-result.low, result.high] == pytest.approx([0.037, 0.037], abs=0.001)


def test_runs_on_other_questions_are_refused() -> None:
    with pytest.raises(UserError, match="1 are in only one"):
        compare_by_document(by_document([1, 0, 1]), by_document([1, 0]))


def test_the_demo_s_rows_go_by_image_where_questions_share_one(tmp_path: Path) -> None:
    folders, images = Folders(tmp_path), np.arange(100) // 10
    for name, scores in (("baseline", BASE), ("mean_shift", STEERED)):
        shown = {"tiny_spatial": scores, "tiny_spatial_ood": scores}
        write_run(folders.run("spatial", name), shown, sample=lambda number: {"images": [f"{number // 10}"]})
    (row,) = [row for row in collect_rows(folders) if (row["system"], row["split"]) == ("mean_shift", "test")]
    by_image = compare_by_document(by_document(BASE), by_document(STEERED), images)
    alone = compare_by_document(by_document(BASE), by_document(STEERED))
    assert row["low"] == pytest.approx(by_image.low) and row["low"] < alone.low - 0.05
    assert row["p"] == pytest.approx(by_image.p, abs=0.02) and row["p"] > alone.p + 0.05


def test_a_board_has_every_system_paired_with_the_baseline(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE, "a_prompted": STEERED})
    write_run(tmp_path / "mean_shift", {"a": STEERED}, spec="vector=v,layer=1")
    write_run(tmp_path / "luck", {"a": BASE[::-1]}, spec="vector=v,layer=1,control=random:0")
    rows = board(tmp_path, "other=" + str(write_run(tmp_path.parent / f"{tmp_path.name}-x", {"a": BASE}, spec=None)))
    assert {key: row.role for key, row in rows.items()} == {
        ("a", "baseline"): "baseline",
        ("a", "prompted"): "prompted",
        ("a", "luck"): "control",
        ("a", "mean_shift"): "steered",
        ("a", "other"): "other",
    }
    steered = rows["a", "mean_shift"]
    assert (steered.n, steered.fixed, steered.broken) == (100, 15, 5)
    assert (steered.score, steered.gain, steered.seconds) == pytest.approx((0.7, 0.1, 5.5))
    assert steered.p_exact == pytest.approx(2 * binom.cdf(5, 20, 0.5)) and steered.p < steered.p_exact
    tested = [row for row in rows.values() if row.test]
    corrected = multipletests([row.p for row in tested], method="holm")[1]
    assert [row.p_holm for row in tested] == pytest.approx(list(corrected))


def test_groups_and_tags_count_each_task_the_same_and_go_by_image_where_questions_share_one(tmp_path: Path) -> None:
    about = {"group_subtasks": {"g": ["a", "b"]}, "configs": {"a": {"tag": ["t"]}, "b": {"tag": "t"}, "c": {}}}

    def sample(number: int) -> dict[str, Any]:
        return {"images": [f"{number // 4}"]}

    scores = {"a": BASE, "b": BASE[:40], "c": BASE[:20]}
    write_run(tmp_path / "baseline", scores, sample=sample)
    write_run(tmp_path / "s", {"a": STEERED, "b": [0.0] + BASE[1:40], "c": BASE[:20]}, results=about, sample=sample)
    rows = board(tmp_path)
    group = rows["g", "s"]
    assert (group.scope, group.n, group.images) == ("group", 140, 25)
    assert group.gain == pytest.approx((0.1 - 1 / 40) / 2)
    assert (rows["a", "s"].images, rows["a", "s"].test) == (25, "sign flips by image")
    assert rows["t", "s"].scope == "tag" and rows["t", "s"].gain == group.gain


def test_one_name_for_all_images_is_no_image(tmp_path: Path) -> None:
    for name, scores in (("baseline", BASE), ("s", STEERED)):
        write_run(tmp_path / name, {"a": scores}, sample={"input_media": ["image.png"]})
    assert board(tmp_path)["a", "s"].images is None


@pytest.mark.parametrize(("logged", "key"), [("wer", "score"), ("score", "score"), ("wer", "wer")])
def test_graded_scores_and_scores_where_less_is_better(tmp_path: Path, logged: str, key: str) -> None:
    about = {
        "configs": {"a": {"metric_list": [{"metric": "wer"}], "score_key": key}},
        "higher_is_better": {"a": {"wer": False}},
    }
    for name, shift in (("baseline", 0.0), ("s", -0.5)):
        scores = [5 + (i % 7) + shift for i in range(50)]
        write_run(tmp_path / name, {"a": scores}, results=about,
            sample=lambda i, scores=scores: {"acc": None, "score": None, logged: scores[i]})  # fmt: skip
    row = board(tmp_path)["a", "s"]
    assert row.gain == pytest.approx(-0.5) and row.low < -0.5 < row.high
    assert (row.fixed, row.broken, row.scale, row.test) == (50, 0, 1, "sign flips")


def test_a_stock_task_s_own_score_is_found_and_a_metric_can_be_named(tmp_path: Path) -> None:
    for name, scores in (("baseline", BASE), ("s", STEERED)):
        write_run(tmp_path / name, {"a": scores}, results={"configs": {"a": {"metric_list": [{"metric": "pope"}]}}},
            sample=lambda i, scores=scores: {"score": None, "pope": {"score": scores[i]}, "other": 1.0})  # fmt: skip
    assert board(tmp_path)["a", "s"].gain == pytest.approx(0.1)
    assert board(tmp_path, metric="other")["a", "s"].gain == 0
    with pytest.raises(UserError, match="no score on 100 of 100 questions; --metric says"):
        board(tmp_path, metric="nothing")


def test_an_answer_may_hold_any_line_end(tmp_path: Path) -> None:
    place = write_run(tmp_path / "baseline", {"a": BASE}, answer=lambda i, score: "one LINE two") / "tiny"
    path = place / f"{STAMP}_samples_a.jsonl"
    path.write_text(path.read_text().replace("LINE", "\u2028\u0085"), encoding="utf-8")
    samples = read_samples(read_results(newest_evaluation(tmp_path)), "a")
    assert [row["filtered_resps"] for row in samples.said()] == ["one \u2028\u0085 two"] * 100


def test_one_run_is_scored_by_one_metric(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE})
    write_run(tmp_path / "s", {"a": STEERED}, sample=lambda i: {"score": None} if i == 70 else {})
    with pytest.raises(UserError, match="s on a: no score on 1 of 100 questions"):
        board(tmp_path)


def test_lm_eval_s_files_are_read(tmp_path: Path) -> None:
    for name, scores in (("baseline", BASE), ("s", STEERED)):
        folder = tmp_path / name / "org__model"
        folder.mkdir(parents=True)
        stamp = "2026-01-01T00-00-00.123456"
        said: dict[str, Any] = {"results": {"a": {}}}
        said["config"] = {"model": "hf", "model_args": {"pretrained": "org/model"}}
        said["config"]["steering"] = {"spec": "" if name == "baseline" else "vector=v,layer=3,alpha=0.5,tokens=text"}
        (folder / f"results_{stamp}.json").write_text(json.dumps(said))
        rows = [
            {"doc_id": i, "target": "x", "prompt_hash": f"p{i}", "filter": kind, "metrics": ["acc"], "acc": score,
             "filtered_resps": ["x"], "arguments": {"gen_args_0": {"arg_0": f"question {i}"}}}
            for kind in ("strict", "loose") for i, score in enumerate(scores)
        ]  # fmt: skip
        (folder / f"samples_a_{stamp}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rows = board(tmp_path)
    assert rows["a", "s"].n == 100 and rows["a", "s"].gain == pytest.approx(0.1)
    assert rows["a", "s"].role == "steered"
    made = provenance(rows["a", "s"].samples[0])
    assert made["command"] == "lm_eval --model hf --model_args pretrained=org/model --tasks a --log_samples"


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"scores": {"a": BASE[:99]}}, "other samples: 99 of its 99 are among the baseline's 100"),
        ({"sample": {"target": "C"}}, "other samples: 0 of its 100"),
        ({"sample": {"input": "Look. Is it?"}}, "other prompts: on 100 of 100 questions"),
        ({"config": {"torch_seed": 7}}, "other seeds: torch_seed 7, the baseline's 1234"),
        ({"results": {"n-shot": {"a": 2}}}, "other prompts: shots 2, the baseline's 0"),
        ({"results": {"versions": {"a": 2.0}}}, "other prompts: version of the task 2.0"),
        ({"sample": {"images": ["other"]}}, "other images: on 100 of 100"),
    ],
)
def test_runs_that_cannot_be_paired_are_refused_by_name(tmp_path: Path, changed: dict[str, Any], why: str) -> None:
    write_run(tmp_path / "baseline", {"a": BASE}, sample=lambda i: {"images": [f"{i}"]})
    settings: dict[str, Any] = {"scores": {"a": BASE}, **changed}
    write_run(tmp_path / "odd", **settings)
    with pytest.raises(UserError, match=f"nothing can be compared with the baseline: odd on a: {why}"):
        board(tmp_path)
    write_run(tmp_path / "good", {"a": STEERED})
    row = board(tmp_path)["a", "odd"]
    assert why in row.refused and np.isnan(row.gain) and row.score > 0
    assert any(line.startswith(f"not compared: odd on a: {why}") for line in map(str, run_comparison([str(tmp_path)])))


def test_the_baseline_is_told_or_asked_for(tmp_path: Path) -> None:
    write_run(tmp_path / "plain", {"a": BASE})
    write_run(tmp_path / "s", {"a": STEERED}, spec="vector=v")
    assert board(tmp_path)["a", "plain"].role == "baseline"
    assert board(tmp_path, baseline="s")["a", "plain"].gain == pytest.approx(-0.1)
    assert board(tmp_path / "s", baseline=str(tmp_path / "plain"))["a", "s"].gain == pytest.approx(0.1)
    write_run(tmp_path / "another", {"a": BASE})
    with pytest.raises(UserError, match="which run is the baseline. Say --baseline NAME, one of another, plain, s"):
        board(tmp_path)
    with pytest.raises(UserError, match="unknown run for --baseline 'plian': did you mean 'plain'"):
        board(tmp_path, baseline="plian")


def test_a_system_is_called_by_as_much_of_its_folder_as_it_takes(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE})
    write_run(tmp_path / "x/one", {"a": BASE})
    write_run(tmp_path / "x/two", {"a": BASE})
    assert list(read_systems([str(tmp_path)])) == ["baseline", "x/one", "x/two"]
    assert list(read_systems([str(tmp_path / "x/one"), f"mine={tmp_path}/baseline"], "mine")) == ["mine", "one"]


def test_runs_of_one_name_below_several_folders_are_called_by_folder_and_way(tmp_path: Path) -> None:
    for place in ("baseline", "mine", "tiny/col/baseline", "tiny/col/steered", "other/col/baseline", "other/col/one"):
        write_run(tmp_path / place, {"a": BASE})
    typed = [str(tmp_path / name) for name in ("baseline", "mine", "other", "tiny")]
    names = ["baseline", "mine", "other/col/baseline", "col/one", "tiny/col/baseline", "col/steered"]
    assert list(read_systems(typed, "baseline")) == names
    with pytest.raises(UserError, match=r"two runs claim the name .*; give the second a name of its own"):
        read_systems([*typed, str(tmp_path / "tiny")], "baseline")


def test_a_later_run_of_a_task_replaces_the_earlier_and_leaves_the_other_tasks(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE, "b": BASE})
    write_run(tmp_path / "s", {"a": BASE, "b": BASE})
    write_run(tmp_path / "s", {"a": STEERED}, stamp="20260102_000000")
    rows = board(tmp_path)
    assert (rows["a", "s"].fixed, rows["b", "s"].fixed) == (15, 0)


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no finished evaluation in .*empty"):
        board(tmp_path / "empty")
    with pytest.raises(UserError, match="no such folder: .*nowhere"):
        board(tmp_path / "nowhere")
    good = write_run(tmp_path / "baseline", {"a": BASE})
    with pytest.raises(
        UserError,
        match="two runs claim the name 'baseline': one of .*; give the second a name of its own, NAME=.*again",
    ):
        board(good, f"baseline={write_run(tmp_path / 'again', {'a': BASE})}")
    place = write_run(tmp_path / "cut", {"a": BASE}) / "tiny"
    samples = place / f"{STAMP}_samples_a.jsonl"
    whole = samples.read_text()
    samples.write_text(whole[:5_000])
    with pytest.raises(UserError, match=r"samples_a.jsonl' is cut off after 15 samples"):
        board(good, tmp_path / "cut")
    samples.write_text("\n".join(whole.splitlines()[:70]) + "\n")
    with pytest.raises(UserError, match="is cut off: it holds 70 of 100 samples"):
        board(good, tmp_path / "cut")
    samples.write_text(whole + whole.splitlines()[3] + "\n")
    with pytest.raises(UserError, match="has document 3 twice"):
        board(good, tmp_path / "cut")
    results = place / f"{STAMP}_results.json"
    results.write_text(results.read_text()[:-30])
    with pytest.raises(UserError, match="_results.json' is cut off"):
        board(good, tmp_path / "cut")
    results.unlink()
    with pytest.raises(UserError, match="samples_a.jsonl' has no results file beside it"):
        board(good, tmp_path / "cut")
    bare = write_run(tmp_path / "bare", {"a": BASE})
    (bare / "tiny" / f"{STAMP}_samples_a.jsonl").unlink()
    with pytest.raises(UserError, match="run 'bare' has no samples: evaluate with --log_samples"):
        board(good, bare)


def test_every_output_has_the_numbers_and_what_made_them(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/baseline", {"task_a": BASE})
    write_run(tmp_path / "runs/s|x_1", {"task_a": STEERED}, spec="vector=v,layer=1")
    outputs: dict[str, Path] = {
        kind: tmp_path / f"out/board.{kind}" for kind in ("markdown", "latex", "csv", "parquet")
    }
    table, *lines = run_comparison([str(tmp_path / "runs")], **outputs)  # type: ignore[arg-type]
    text = io.StringIO()
    Console(file=text, width=200).print(table)
    for piece in ("s|x_1", "70.0", "+10.0 [+1.", "0.027", "15 / 5", "6 s", "100"):
        assert piece in text.getvalue()
    assert str(lines[-1]).startswith("written: ")
    assert "| task_a | s\\|x_1 | 70.0 | +10.0 [+1." in outputs["markdown"].read_text()
    assert "s$|$x" in (tex := outputs["latex"].read_text()) or "s|x\\_1 & 70.0 & +10.0 {[}+1." in tex
    (row,) = [one for one in csv.DictReader(outputs["csv"].open()) if one["role"] == "steered"]
    (typed,) = [one for one in pq.read_table(outputs["parquet"]).to_pylist() if one["role"] == "steered"]
    assert float(row["gain"]) == typed["gain"] == pytest.approx(0.1)
    assert row["spec_sha256"] == "5" * 64 and len(row["samples_sha256"]) == 64
    assert row["command"].startswith("lmms-eval --model steered_paligemma --model_args pretrained=tiny,vector=v")
    with pytest.raises(UserError, match="cannot write"):
        list(run_comparison([str(tmp_path / "runs")], csv=outputs["csv"] / "below"))


def test_keys_and_tokens_of_services_are_in_no_command(tmp_path: Path) -> None:
    said = {"resolved_cli_args": {"hf_hub_log_args": "token=hf_secret", "wandb_args": "key=secret", "tasks": "a"}}
    write_run(tmp_path / "baseline", {"a": BASE}, config=said)
    assert "secret" not in provenance(board(tmp_path / "baseline")["a", "baseline"].samples[0])["command"]


@pytest.mark.parametrize(
    ("task", "made", "warned"),
    [
        ("a", {"chosen_on": "a"}, True),
        ("a_ll", {"chosen_on": "a (500 questions)"}, True),
        ("a", {"chosen_on": "b, a_prompted"}, True),
        ("a", {"chosen_on": "a_select"}, False),
        ("a", {}, False),
    ],
)
def test_a_system_that_was_chosen_on_what_it_is_tested_on_is_warned_of(
    tmp_path: Path, task: str, made: dict[str, str], warned: bool
) -> None:
    runs = chosen(tmp_path / "runs", task, made)
    files = {kind: tmp_path / f"x.{kind}" for kind in ("markdown", "latex", "html")}
    lines = [str(line) for line in run_comparison([str(runs)], pictures="none", **files)]
    line = f"WARNING: {task}: layer, alpha and tokens of <b>steered were chosen on questions that they are tested on"
    assert [one.startswith(line) for one in lines if "WARNING" in one] == [True] * warned
    told = [line, line.replace("_", r"\_").replace("<", "$<$").replace(">", "$>$"), line.replace("<b>", "&lt;b&gt;")]
    for path, text in zip(files.values(), told, strict=True):
        assert (text in path.read_text()) == warned, path


def chosen(folder: Path, task: str, made: dict[str, str], **more: Any) -> Path:
    """A baseline and a system with the provenance of a choice."""
    write_run(folder / "baseline", {task: BASE}, **more)
    steering = {"spec": "vector=v,layer=1", "sha256": "5" * 64, "vectors": [{"name": "v", "sha256": "6" * 64}]}
    results = {"steering": {**steering, "provenance": made}}
    write_run(folder / "<b>steered", {task: STEERED}, spec=None, results=results, **more)
    return folder


def test_the_same_questions_are_known_by_another_name_of_their_task(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (4, 4), (number, 0, 0)) for number in range(100)]
    asked = [
        Question(number, f"what is {number % 7} ?", [picture], (), 0, {}) for number, picture in enumerate(pictures)
    ]

    def sample(number: int) -> dict[str, Any]:
        return {"input": asked[number].text, "images": image_ids(asked[number].visuals)}

    # the same texts and the same pictures, otherwise paired
    others = [Question(one.doc_id, one.text, [pictures[one.doc_id - 1]], (), 0, {}) for one in asked]
    for name, questions, warned in (("these", asked[::-1], True), ("others", others, False)):
        runs = chosen(tmp_path / name, "a", {"chosen_on": "b", "some_questions": sample_ids(questions)}, sample=sample)
        assert any("WARNING: a:" in str(line) for line in run_comparison([str(runs)])) == warned, name


def test_a_study_of_the_vector_on_the_task_is_warned_of_though_the_spec_was_typed(tmp_path: Path) -> None:
    runs = chosen(tmp_path / "runs", "a", {})
    (tmp_path / "study/.run").mkdir(parents=True)
    # a recipe's own plan is no study's
    (tmp_path / "study/.run/plan.json").write_text("[]")
    (tmp_path / "study/cells.parquet").touch()
    for task, sha, warned in (("a", "6" * 64, True), ("a", "7" * 64, False), ("b", "6" * 64, False)):
        (tmp_path / "study/plan.json").write_text(json.dumps({"task": task, "vectors": {"v": sha}}))
        assert (
            any("WARNING: a:" in str(line) for line in run_comparison([str(runs)], studies=[tmp_path / "study"]))
            == warned
        )
    (tmp_path / "study/plan.json").write_text(json.dumps({"task": "a", "vectors": {"v": "6" * 64}}))
    elsewhere = chosen(tmp_path / "elsewhere", "a", {"chosen_on": "a_select"})
    assert not any("WARNING" in str(line) for line in run_comparison([str(elsewhere)], studies=[tmp_path / "study"]))
    (tmp_path / "study/plan.json").write_text("{")
    with pytest.raises(UserError, match=r"plan.json' cannot be read as a study's plan"):
        list(run_comparison([str(runs)], studies=[tmp_path / "study"]))


@pytest.mark.parametrize(("kind", "suffix"), [("table", "svg"), ("gains", "pdf"), ("gains", "png")])
def test_gains_are_drawn(tmp_path: Path, kind: str, suffix: str) -> None:
    write_run(tmp_path / "runs/baseline", {"a$b": BASE, "c": BASE})
    write_run(tmp_path / "runs/s", {"a$b": STEERED, "c": [2.5 * score for score in BASE]})
    out = tmp_path / f"p.{suffix}"
    assert draw_comparison([str(tmp_path / "runs")], out, kind) == [str(out)]
    start = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[suffix]
    assert out.read_bytes().startswith(start)
    if suffix == "svg":
        assert "+10.0" in out.read_text()


def test_a_plot_of_runs_is_their_gains_with_intervals_unless_another_kind_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/baseline", {"a": BASE})
    write_run(tmp_path / "runs/s", {"a": STEERED})
    runs = [str(tmp_path / "runs")]
    drawn = {
        kind: Path(draw_comparison(runs, tmp_path / f"{kind}.svg", kind)[-1]).read_text()
        for kind in (None, "gains", "table")
    }
    interval = "gain over the baseline [95%]; filled"
    assert [interval in text for text in drawn.values()] == [True, True, False]
    with pytest.raises(UserError, match="say --kind gains or table for the runs, or maps"):
        draw_comparison(runs, tmp_path / "p.svg", studies=[tmp_path])


def test_a_plot_tells_what_a_comparison_of_its_runs_would_warn_of(tmp_path: Path) -> None:
    runs = chosen(tmp_path / "runs", "a", {"chosen_on": "a"})
    write_run(tmp_path / "runs/other", {"b": STEERED})
    *told, drawn = draw_comparison([str(runs)], tmp_path / "p.svg")
    assert drawn == str(tmp_path / "p.svg")
    assert told == [str(line) for line in run_comparison([str(runs)]) if isinstance(line, str)]
    assert "WARNING: a:" in told[-1] and "not compared: other on b" in told[0]


def test_a_plot_that_cannot_be_drawn_is_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE})
    with pytest.raises(UserError, match="no run but the baseline"):
        draw_comparison([str(tmp_path)], tmp_path / "p.png")
    with pytest.raises(UserError, match="ends in .png, .svg or .pdf"):
        draw_comparison([str(tmp_path)], tmp_path / "p.gif")
    with pytest.raises(UserError, match="unknown kind of plot 'tabel': did you mean 'table'"):
        draw_comparison([str(tmp_path)], tmp_path / "p.png", "tabel")
    with pytest.raises(UserError, match="give --studies DIR, or folders of runs"):
        draw_comparison([], tmp_path / "p.png")
