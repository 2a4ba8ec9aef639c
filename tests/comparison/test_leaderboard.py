"""The leaderboard: pairing with the baseline, scores, gains, groups and tags."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom
from statsmodels.stats.multitest import multipletests

from lmms_steer import UserError
from lmms_steer.comparison.api import compare
from lmms_steer.comparison.command import run_comparison
from lmms_steer.comparison.figures import gains_figure
from tests.helpers.runs import BASE, STEERED, TASK_CONFIG, leaderboard, write_run


def test_both_positions_of_a_prompt_are_systems_of_their_own(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE, "a_prompted": STEERED, "a_prompted_paper": BASE})
    write_run(tmp_path / "words", {"a_prompted_paper": STEERED})
    rows = leaderboard(tmp_path)
    gains = {system: row.gain for (_, system), row in rows.items() if row.role == "prompted"}
    assert gains == pytest.approx({"prompted": 0.1, "prompted_paper": 0.0, "words": 0.1})


def test_every_system_is_paired_with_the_baseline(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE, "a_prompted": STEERED})
    write_run(tmp_path / "mean_shift", {"a": STEERED}, spec="vector=v,layer=1")
    write_run(tmp_path / "luck", {"a": BASE[::-1]}, spec="vector=v,layer=1,control=random:0")
    other = write_run(tmp_path.parent / f"{tmp_path.name}-x", {"a": BASE}, spec=None)
    rows = leaderboard(tmp_path, f"other={other}")
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


def test_groups_and_tags_weight_tasks_equally_and_cluster_by_shared_images(tmp_path: Path) -> None:
    about = {
        "group_subtasks": {"g": ["a", "b"]},
        "configs": {"a": {**TASK_CONFIG, "tag": ["t"]}, "b": {**TASK_CONFIG, "tag": "t"}, "c": TASK_CONFIG},
    }

    def sample(number: int) -> dict[str, Any]:
        return {"images": [f"{number // 4}"]}

    scores = {"a": BASE, "b": BASE[:40], "c": BASE[:20]}
    write_run(tmp_path / "baseline", scores, sample=sample)
    write_run(tmp_path / "s", {"a": STEERED, "b": [0.0] + BASE[1:40], "c": BASE[:20]}, results=about, sample=sample)
    rows = leaderboard(tmp_path)
    group = rows["g", "s"]
    assert (group.scope, group.n, group.images) == ("group", 140, 25)
    assert group.gain == pytest.approx((0.1 - 1 / 40) / 2)
    assert (rows["a", "s"].images, rows["a", "s"].test) == (25, "sign flips by image")
    assert rows["t", "s"].scope == "tag" and rows["t", "s"].gain == group.gain


def test_groups_of_tasks_where_less_is_better_gain_what_their_tasks_gain(tmp_path: Path) -> None:
    for losses in (("a", "b"), ("a",)):
        about = {
            "group_subtasks": {"g": ["a", "b"]},
            "configs": {task: {**TASK_CONFIG, "metric_list": [{"metric": "acc"}]} for task in ("a", "b")},
            "higher_is_better": {task: {"acc": task not in losses} for task in ("a", "b")},
        }
        folder = tmp_path / str(len(losses))
        for name, scores in (("baseline", BASE), ("s", STEERED)):
            write_run(folder / name, {"a": scores, "b": scores}, results=about)
        rows = leaderboard(folder)
        if len(losses) == 2:
            names = ("gain", "low", "high", "fixed", "broken")
            group, task = ([getattr(rows[place, "s"], name) for name in names] for place in ("g", "a"))
            assert group[0] == pytest.approx(0.1) and rows["a", "s"].fixed == 5
            assert group[1] > task[1] and group[2] < task[2], "twice as many questions"
            assert [2 * n for n in task[3:]] == group[3:]
        else:
            assert not any(task == "g" for task, _ in rows), "a mean of scores and losses says nothing"


def test_questions_without_an_image_stand_alone(tmp_path: Path) -> None:
    def sample(number: int) -> dict[str, Any]:
        return {"images": [f"{number // 4}"] if number < 98 else []}

    for name, scores in (("baseline", BASE), ("s", STEERED)):
        write_run(tmp_path / name, {"a": scores}, sample=sample)
    assert leaderboard(tmp_path)["a", "s"].images == 25 + 2


def test_one_name_for_all_images_does_not_identify_an_image(tmp_path: Path) -> None:
    for name, scores in (("baseline", BASE), ("s", STEERED)):
        write_run(tmp_path / name, {"a": scores}, sample={"input_media": ["image.png"]})
    assert leaderboard(tmp_path)["a", "s"].images is None


def test_one_image_for_all_questions_has_no_interval_and_no_test(tmp_path: Path) -> None:
    for name, scores in (("baseline", BASE), ("s", STEERED)):
        write_run(tmp_path / name, {"a": scores}, sample={"images": ["0123"]})
    row = leaderboard(tmp_path)["a", "s"]
    assert (row.images, row.p, row.low, row.high) == (1, 1.0, -math.inf, math.inf)
    page, latex, table = (tmp_path / name for name in ("page.html", "t.tex", "t.csv"))
    board = compare([str(tmp_path / "baseline"), str(tmp_path / "s")])
    assert "no interval and no test on a: all of a task's questions show one image" in board.lines()
    board.write(html=page, latex=latex, csv=table)
    assert "Infinity" not in page.read_text("utf-8")
    assert r"+10.0 {[}$-$$\infty$, +$\infty$] & 1.000 & 1.000 & 100 (1 image)" in latex.read_text("utf-8")
    assert ",-inf,inf," in table.read_text("utf-8")
    for kind in ("gains", "table"):
        gains_figure(board.rows, kind).draw_without_rendering()


@pytest.mark.parametrize(("logged", "key"), [("wer", "score"), ("score", "score"), ("wer", "wer")])
def test_graded_scores_where_less_is_better(tmp_path: Path, logged: str, key: str) -> None:
    about = {
        "configs": {"a": {"metric_list": [{"metric": "wer"}], "score_key": key}},
        "higher_is_better": {"a": {"wer": False}},
    }
    for name, shift in (("baseline", 0.0), ("s", -0.5)):
        scores = [5 + (i % 7) + shift for i in range(50)]
        samples = [{"acc": None, "score": None, logged: score} for score in scores]
        write_run(tmp_path / name, {"a": scores}, results=about, sample=samples.__getitem__)
    row = leaderboard(tmp_path)["a", "s"]
    assert row.gain == pytest.approx(-0.5) and row.low < -0.5 < row.high
    assert (row.fixed, row.broken, row.scale, row.test) == (50, 0, 1, "sign flips")


def test_score_of_lmms_eval_s_own_tasks_is_found_and_metric_can_be_chosen(tmp_path: Path) -> None:
    for name, scores in (("baseline", BASE), ("s", STEERED)):
        samples = [{"score": None, "pope": {"score": score}, "other": 1.0} for score in scores]
        results = {"configs": {"a": {"metric_list": [{"metric": "pope"}]}}}
        write_run(tmp_path / name, {"a": scores}, results=results, sample=samples.__getitem__)
    assert leaderboard(tmp_path)["a", "s"].gain == pytest.approx(0.1)
    assert leaderboard(tmp_path, metric="other")["a", "s"].gain == 0
    with pytest.raises(UserError, match=r"unknown --metric 'othr': did you mean 'other'\? known: acc, other, pope$"):
        leaderboard(tmp_path, metric="othr")


def test_all_samples_of_a_run_are_scored_by_one_metric(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE})
    write_run(tmp_path / "s", {"a": STEERED}, sample=lambda i: {"score": None} if i == 70 else {})
    with pytest.raises(UserError, match="s on a: no score on 1 of 100 questions"):
        leaderboard(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"scores": {"a": BASE[:99]}},
            "other samples: 99 of its 99 are among the baseline's 100; evaluate both with the same --limit",
        ),
        ({"sample": {"target": "C"}}, "other samples: 0 of its 100 are among the baseline's 100"),
        ({"sample": {"input": "Look. Is it?"}}, "other prompts: on 100 of 100 questions"),
        ({"config": {"torch_seed": 7}}, "other seeds: torch_seed 7, the baseline's 1234"),
        ({"results": {"n-shot": {"a": 2}}}, "other prompts: shots 2, the baseline's 0"),
        ({"results": {"versions": {"a": 2.0}}}, "other prompts: version of the task 2.0"),
        ({"sample": {"images": ["other"]}}, "other images: on 100 of 100"),
    ],
)
def test_runs_that_cannot_be_paired_are_refused_with_the_reason(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    write_run(tmp_path / "baseline", {"a": BASE}, sample=lambda i: {"images": [f"{i}"]})
    settings: dict[str, Any] = {"scores": {"a": BASE}, **change}
    write_run(tmp_path / "odd", **settings)
    with pytest.raises(UserError, match=f"nothing can be compared with the baseline: odd on a: {reason}"):
        leaderboard(tmp_path)
    write_run(tmp_path / "good", {"a": STEERED})
    row = leaderboard(tmp_path)["a", "odd"]
    assert reason in row.refused and np.isnan(row.gain) and row.score > 0
    assert any(
        line.startswith(f"not compared: odd on a: {reason}") for line in map(str, run_comparison([str(tmp_path)]))
    )


def test_other_readings_of_the_answers_are_shown_with_their_gains(tmp_path: Path) -> None:
    def samples(scores: list[float]) -> Any:
        return lambda i: {"acc_strict": scores[i] * (i % 2), "unparsed_strict": 1 - i % 2}

    for name, scores in (("baseline", BASE), ("s", STEERED)):
        write_run(tmp_path / name, {"a": scores}, sample=samples(scores))
    row = leaderboard(tmp_path)["a", "s"]
    odd = [sum(scores[1::2]) / 100 for scores in (BASE, STEERED)]
    reading = row.readings["strict"]
    assert (reading.score, reading.gain) == pytest.approx((odd[1], odd[1] - odd[0]))
    even = int(sum(STEERED[::2]))
    assert (reading.lost, reading.won, list(row.readings)) == (even, 0, ["strict"])
    by_strict = leaderboard(tmp_path, metric="acc_strict")["a", "s"]
    assert by_strict.gain == pytest.approx(odd[1] - odd[0])
    assert (by_strict.unparsed, row.unparsed, by_strict.readings) == (0.5, 0.0, {})
    list(run_comparison([str(tmp_path)], markdown=tmp_path / "x.md"))
    assert f"| {100 * odd[1]:.1f} (+{100 * (odd[1] - odd[0]):.1f}), {even} differ |" in (tmp_path / "x.md").read_text()


def test_the_papers_scorer_has_a_column_where_it_scores_an_answer_differently(tmp_path: Path) -> None:
    by_paper = [1 - STEERED[0], *STEERED[1:]]

    def samples(paper: list[float]) -> Any:
        return lambda i: {"acc_paper": paper[i]}

    for name, scores, paper in (("baseline", BASE, BASE), ("s", STEERED, STEERED), ("odd", STEERED, by_paper)):
        write_run(tmp_path / name, {"a": scores}, sample=samples(paper))
    both = [f"{name}={tmp_path / name}" for name in ("baseline", "s")]
    list(run_comparison(both, markdown=tmp_path / "same.md"))
    assert "paper's scorer" not in (tmp_path / "same.md").read_text()
    page = tmp_path / "x.html"
    list(run_comparison([*both, f"odd={tmp_path / 'odd'}"], markdown=tmp_path / "x.md", html=page))
    assert "paper's scorer" in (tmp_path / "x.md").read_text() and ", 1 differ |" in (tmp_path / "x.md").read_text()
    assert "the paper&#39;s scorer differs" in page.read_text() or "the paper's scorer differs" in page.read_text()


@pytest.mark.parametrize(
    ("before", "after", "warned"),
    [
        (0.04, 0.04, []),
        (0.05, 0.0, ["5.0% (baseline)"]),
        (0.3, 0.1, ["30.0% (baseline), 10.0% (s)", "trust"]),
        # all of the gain; 0.15 - 0.05 is below 0.1 in binary
        (0.15, 0.05, ["15.0% (baseline), 5.0% (s)"]),
        (0.15, 0.06, ["15.0% (baseline), 6.0% (s)"]),
    ],
)
def test_many_unread_answers_and_gains_that_may_come_from_them_are_warned_of(
    tmp_path: Path, before: float, after: float, warned: list[str]
) -> None:
    for name, scores, share in (("baseline", BASE, before), ("s", STEERED, after)):
        write_run(
            tmp_path / name,
            {"a": scores},
            sample=[{"unparsed": float(i < 100 * share)} for i in range(100)].__getitem__,
        )
    lines = [line for line in map(str, run_comparison([str(tmp_path)])) if line.startswith("WARNING: a: ")]
    assert all(part in lines[0] for part in warned) and bool(lines) == bool(warned)
    assert any("the gain of s (+10.0) may be one of format" in line for line in lines) == (
        round(before - after, 9) >= 0.1
    )


def test_a_gain_of_0_is_none_of_format(tmp_path: Path) -> None:
    # 37 are mended and 37 broken, three questions an image: a sum of weights that rounds to 8e-18
    places = np.random.default_rng(1).permutation(200)
    base = np.isin(np.arange(200), places[:100]).astype(float)
    steered = base.copy()
    steered[places[:37]], steered[places[100:137]] = 0, 1
    for name, scores in (("baseline", base), ("s", steered)):
        write_run(
            tmp_path / name,
            {"a": scores.tolist()},
            sample=lambda i: {"unparsed": float(i < 20), "images": [f"{i // 3:016x}"]},
        )
    assert leaderboard(tmp_path)["a", "s"].gain == 0
    assert not any("may be one of format" in str(line) for line in run_comparison([str(tmp_path)]))


def test_a_random_vector_that_was_asked_with_another_prompt_stays_a_control(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"t": BASE, "t_prompted": BASE}, sample={"input": "a prompt"})
    spec = "vector=v,layer=1,alpha=1,tokens=both,control=random:0"
    write_run(tmp_path / "random", {"t_prompted": STEERED}, spec=spec, sample={"input": "another prompt"})
    rows = leaderboard(tmp_path)
    assert rows["t", "random"].role == "control" and not rows["t", "random"].refused
    assert rows["t", "prompted"].role == "prompted"
