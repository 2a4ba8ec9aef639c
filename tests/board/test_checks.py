"""Each check finds the fault that it is for, in an entry whose other checks pass, and the other entries stay."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lmms_steer import UserError
from lmms_steer.board import reading
from lmms_steer.board.adding import Addition, add_runs
from lmms_steer.board.checks import Outcome, checks, register_check
from lmms_steer.board.reading import read_board
from lmms_steer.board.row import BoardRow, judged
from lmms_steer.board.rules import read_rules
from lmms_steer.board.templates import init_board
from lmms_steer.cli import app
from lmms_steer.comparison.studies import read_cells
from tests.helpers.board_faults import (
    REFUSED,
    UNREADABLE,
    another_metric,
    another_model,
    change_json,
    edit_an_answer,
    huge_scores,
    study_bomb,
)
from tests.helpers.boards import CHOSEN, TASK, VERSIONS, make_board, shipped_vector, write_system
from tests.helpers.runs import BASE, STEERED, leaderboard, write_run, write_study

GROUP = f"entries/tiny-paligemma2/{TASK}"
PLACE = f"tiny-paligemma2/{TASK}/steered"


def row_of(board: Path, system: str = "steered") -> BoardRow:
    return next(row for row in read_board(board, processes=1).rows if row.system == system)


def refusals(board: Path) -> dict[str, str]:
    return dict(read_board(board, processes=1).refusals())


def test_the_numbers_are_those_of_a_comparison_of_the_runs(tmp_path: Path) -> None:
    board, runs = make_board(tmp_path / "board"), tmp_path / "runs"
    compared = leaderboard(runs / "baseline", runs / "steered", runs / "random", baseline="baseline")
    for system in ("steered", "random"):
        ours, theirs = row_of(board, system), compared[TASK, system]
        for name in ("score", "gain", "low", "high", "p", "fixed", "broken", "n", "role"):
            assert getattr(ours, name) == getattr(theirs, name), name
    steered = row_of(board)
    assert steered.gain == pytest.approx(0.1) and (steered.fixed, steered.broken) == (15, 5)
    assert steered.controls["random"][1] == pytest.approx(0.01)
    assert {status for status, _ in steered.outcomes.values()} == {"passed"}
    assert (steered.concept, steered.method) == ("spatial", "mean_shift")
    assert not refusals(board)


@pytest.mark.parametrize(
    ("fault", "expected"),
    list(REFUSED.items()),
)
def test_a_fault_is_refused_by_its_check_alone(tmp_path: Path, fault: Any, expected: str) -> None:
    board = make_board(tmp_path / "board")
    fault(board / GROUP / "steered")
    assert refusals(board).keys() == {PLACE} and refusals(board)[PLACE].startswith(expected)
    assert [row.system for row in read_board(board, processes=1).shown] == ["baseline", "random"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    list(UNREADABLE.items()),
)
def test_a_file_that_cannot_be_read_is_one_line_and_the_rest_is_checked(
    tmp_path: Path, fault: Any, expected: str
) -> None:
    board = make_board(tmp_path / "board")
    fault(board / GROUP / "steered")
    assert refusals(board)[PLACE].startswith(expected)
    assert len(read_board(board, processes=1).shown) == 2


def test_a_refused_baseline_takes_what_it_is_compared_with_along(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    edit_an_answer(board / GROUP / "baseline")
    assert refusals(board)[PLACE] == f"pairing: its baseline tiny-paligemma2/{TASK}/baseline is refused"
    assert row_of(board).gain is None


def test_a_score_that_the_task_does_not_have_is_refused(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    another_metric(board / GROUP / "steered")
    assert refusals(board)[PLACE].startswith(f"scores: {TASK} has no score 'accuracy': it has acc, acc_lenient")


def test_an_entry_is_of_the_model_that_was_run(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    another_model(board / GROUP / "steered")
    expected = "results.json is of the model tiny-paligemma2, the entry says tiny-paligemma2-10b"
    assert refusals(board) == {f"tiny-paligemma2-10b/{TASK}/steered": expected}


def test_a_second_unsteered_entry_takes_no_baseline_away(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    list(add_runs(board, [f"another={write_system(tmp_path / 'more', BASE, steered=False)}"], Addition()))
    assert not refusals(board) and row_of(board).baseline == f"tiny-paligemma2/{TASK}/baseline"
    # without one of that name nothing says which
    change_json(board / GROUP / "baseline" / "entry.json", lambda entry: entry.update(system="first"))
    (board / GROUP / "baseline").rename(board / GROUP / "first")
    assert refusals(board)[PLACE].startswith("pairing: several unsteered systems are beside it")


def test_a_random_vector_with_alpha_0_is_no_control(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    rows = [
        replace(row, spec=row.spec.replace("alpha=0.25", "alpha=0")) if row.role == "control" else row
        for row in read_board(board).rows
    ]
    steered = next(row for row in judged(rows, read_rules(board)) if row.role == "steered")
    assert steered.outcomes["controls"] == ["failed", "no random control beside it"]


def test_a_row_without_finite_numbers_is_json_that_a_browser_reads(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    huge_scores(board / GROUP / "steered")
    # JSON.parse knows no Infinity
    json.dumps(row_of(board).to_json(), allow_nan=False)


def test_a_control_that_was_extracted_stands_beside_its_method_s_vector(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    shuffled = "tiny-gemma2/spatial/mean_shift-shuffled"
    record = {
        "spec": f"vector={shuffled},layer=2,alpha=0.25,tokens=image",
        "vectors": [{"name": shuffled, "sha256": "5" * 64, "provenance": {"method": "mean_shift-shuffled"}}],
    }
    list(add_runs(board, [f"moved={write_system(tmp_path / 'more', STEERED, record=record)}"], Addition()))
    row = row_of(board, "moved")
    assert (row.role, row.kind, row.vector) == ("control", "shuffled", "tiny-gemma2/spatial/mean_shift")
    assert row_of(board).controls.keys() == {"random"}, "it lacks its vector, so it is refused"
    rules = replace(read_rules(board), checks={**read_rules(board).checks, "vectors": "show"})
    rows = {one.system: one for one in judged(read_board(board).rows, rules)}
    assert rows["steered"].controls.keys() == {"random", "shuffled"}


def test_a_second_entry_of_the_same_name_is_refused(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    # two people add to clones of their own, and both are merged
    list(init_board(tmp_path / "clone", "Tiny", ""))
    run = write_system(tmp_path / "other", STEERED)
    list(add_runs(tmp_path / "clone", [f"STEERED={run}"], Addition()))
    shutil.copytree(tmp_path / "clone" / GROUP / "STEERED", board / GROUP / "STEERED")
    assert refusals(board) == {PLACE: f"it has the name of tiny-paligemma2/{TASK}/STEERED, but for capital letters"}


def test_without_controls_or_questions_enough_an_entry_is_shown_with_the_reason(tmp_path: Path) -> None:
    list(init_board(tmp_path / "board", "Tiny", ""))
    write_system(tmp_path / "runs" / "baseline", BASE, steered=False)
    write_system(tmp_path / "runs" / "steered", [*BASE[:-1], 1.0], record={"versions": {**VERSIONS, "torch": "1.0"}})
    list(add_runs(tmp_path / "board", [str(tmp_path / "runs")], Addition()))
    outcomes = row_of(tmp_path / "board").outcomes
    assert outcomes["controls"] == ["failed", "no random control beside it"]
    assert outcomes["power"] == [
        "failed",
        "no gain would be seen in 4 of 5 runs on 100 questions, of which 1.0% changed",
    ]
    assert outcomes["versions"] == ["failed", "torch 1.0, the baseline's 2.15.0"]
    assert not refusals(tmp_path / "board")


@pytest.mark.parametrize(
    ("case", "units", "asked"),
    [
        ("words", np.array([1.0] * 15 + [-1.0] * 5 + [0.0] * 80), "100 questions, of which 20.0% changed"),
        # four questions about each of 25 images: the first fifteen changes are of three of them and of three questions
        (
            "images",
            np.array([0.0] * 13 + [-4.0, -1.0] + [4.0] * 3 + [3.0] + [0.0] * 6) / 4,
            "100 questions about 25 images, of which 20.0% changed",
        ),
        ("graded", np.array([0.02] * 75 + [-0.01] * 25), "100 questions, of which 100.0% changed"),
        ("losses", np.array([200.0] * 75 + [-100.0] * 25), "100 questions, of which 100.0% changed"),
    ],
)
def test_the_gain_that_could_be_seen_is_that_of_the_interval(
    tmp_path: Path, case: str, units: np.ndarray[Any, Any], asked: str
) -> None:
    list(init_board(tmp_path / "board", "Mine", ""))
    steered = STEERED if case in ("words", "images") else [0.5 + change for change in units]
    base = BASE if case in ("words", "images") else [0.5] * 100
    sample = (lambda number: {"images": [f"{number // 4}"]}) if case == "images" else None
    for name, scores in (("baseline", base), ("steered", steered)):
        write_run(tmp_path / "runs" / name, {"mine": scores}, spec="vector=v" * (name == "steered"), sample=sample)
    list(add_runs(tmp_path / "board", [str(tmp_path / "runs")], Addition()))
    status, detail = row_of(tmp_path / "board").outcomes["power"]
    stated = re.fullmatch(rf"gains from (\S+)( points)? on are seen in 4 of 5 runs on {asked}", detail)
    assert stated is not None, detail
    gain = float(stated[1]) / (100 if stated[2] else 1)
    # two-sided 5% and 80% power: 1.96 standard errors without an effect and 0.8416 with one
    square, n = float((units**2).mean()), len(units)
    errors = 1.96 * math.sqrt(square / n) + 0.8416 * math.sqrt((square - gain**2) / n)
    assert gain == pytest.approx(errors, rel=0.02) and (stated[2] is None) == (case == "losses")
    assert status == ("failed" if case == "images" else "passed")


def test_a_control_that_gains_as_much_is_said(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    list(add_runs(board, [f"random1={write_system(tmp_path / 'more', STEERED, control='random:1')}"], Addition()))
    assert row_of(board).outcomes["controls"] == ["failed", "a control gains as much: random +10.0"]


def test_a_control_s_equal_gain_may_differ_by_rounding(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    rows = [
        replace(row, gain=0.15 - 0.05 if row.role == "control" else 0.1)
        for row in read_board(board, use_cache=False).rows
    ]
    steered = next(row for row in judged(rows, read_rules(board)) if row.role == "steered")
    assert steered.outcomes["controls"] == ["failed", "a control gains as much: random +10.0"]


def test_the_damage_is_that_of_the_study_s_cell(tmp_path: Path) -> None:
    board, study = (
        make_board(tmp_path / "board"),
        write_study(tmp_path / "study", {(1, 0.25): 0.0, (2, 0.25): 0.1}, kl={(1, 0.25): 0.5, (2, 0.25): 0.03}),
    )
    sha256 = shipped_vector().sha256
    plan: dict[str, Any] = {"task": "tiny_spatial_select", "vectors": {"v": sha256}}
    (study / "plan.json").write_text(json.dumps(plan))
    run = write_system(
        tmp_path / "more", STEERED, record={"provenance": {**CHOSEN, "vector_sha256": plan["vectors"]["v"]}}
    )
    list(add_runs(board, [f"studied={run}"], Addition(studies=(study,))))
    assert row_of(board, "studied").kl == 0.03 and row_of(board).kl is None
    assert row_of(board, "studied").outcomes["choice"] == ["passed", "chosen on tiny_spatial_select"]
    change_json(board / GROUP / "studied" / "study" / "plan.json", lambda plan: plan.update(vectors={"v": "0" * 64}))
    assert row_of(board, "studied").outcomes["choice"] == [
        "failed",
        "its study is not of these vectors and this choice",
    ]


def test_a_choice_that_was_kept_for_a_vector_has_its_study(tmp_path: Path) -> None:
    board, studies = make_board(tmp_path / "board"), tmp_path / "studies"
    for name, task, sha256 in (
        ("another task", "tiny_counting_select", shipped_vector().sha256),
        ("another vector", "tiny_spatial_select", "0" * 64),
        ("its own", "tiny_spatial_select", shipped_vector().sha256),
    ):
        study = write_study(studies / name, {(2, 0.25): 0.1}, kl={(2, 0.25): 0.03})
        (study / "plan.json").write_text(json.dumps({"task": task, "vectors": {"v": sha256}}))
    # as a model records it that steers with the choice of `search --keep`
    record = {"provenance": {"chosen_on": "tiny_spatial_select (500 questions)"}}
    run = write_system(tmp_path / "more", STEERED, record=record)
    for folder in ("another task", "another vector"):
        lines = list(add_runs(board, [f"kept={run}"], Addition(studies=(studies / folder,), replace=True)))
        assert lines[-1].startswith("not used: the studies in")
    assert len(list(add_runs(board, [f"kept={run}"], Addition(studies=(studies,), replace=True)))) == 1
    row = row_of(board, "kept")
    assert row.kl == 0.03
    assert row.outcomes["choice"] == ["passed", "chosen on tiny_spatial_select (500 questions)"]
    change_json(board / GROUP / "kept" / "study" / "plan.json", lambda plan: plan.update(task="tiny_counting_select"))
    assert row_of(board, "kept").outcomes["choice"][0] == "failed"


def test_a_contrast_is_no_baseline(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    record = {"contrast": {"name": "vcd", "alpha": 1.0}}
    list(add_runs(board, [f"vcd={write_system(tmp_path / 'more', STEERED, steered=False, record=record)}"], Addition()))
    assert not refusals(board)
    assert row_of(board).gain == pytest.approx(0.1) and row_of(board, "vcd").role == "other"


def test_a_steered_run_with_a_sentence_before_the_question_is_no_prompted_baseline(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    for name, steered in (("asked", False), ("both", True)):
        run = write_system(tmp_path / name, STEERED, steered=steered, task=f"{TASK}_prompted")
        list(add_runs(board, [f"{name}={run}"], Addition()))
    asked, both = (row_of(board, f"{name}, prompted") for name in ("asked", "both"))
    assert (asked.role, both.role) == ("prompted", "steered")
    assert (asked.outcomes["controls"][0], both.outcomes["controls"][0]) == ("not needed", "passed")


def test_a_refusal_names_no_option_that_a_leaderboard_does_not_have(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    list(add_runs(board, [f"copy={write_system(tmp_path / 'more', STEERED, pretrained='copy/tiny')}"], Addition()))
    (reason,) = refusals(board).values()
    assert "other model: pretrained copy/tiny" in reason and "--allow-different" not in reason


def test_where_less_is_better_a_control_that_loses_more_is_said(tmp_path: Path) -> None:
    def row(gain: float, role: str, direction: int) -> BoardRow:
        made = row_of(board, "random" if role == "control" else "steered")
        return replace(made, gain=gain, direction=direction, refused=())

    board = make_board(tmp_path / "board")
    rules = read_rules(board)
    for direction, control, status in ((-1, -0.2, "failed"), (-1, 0.0, "passed"), (1, -0.2, "failed")):
        steered, _ = judged([row(-0.1 if direction < 0 else -0.3, "steered", direction),
                             row(control, "control", direction)], rules)  # fmt: skip
        assert steered.outcomes["controls"][0] == status


def test_the_damage_is_that_of_the_spec_s_vector(tmp_path: Path) -> None:
    board, study = make_board(tmp_path / "board"), tmp_path / "study"
    names = {"tiny-gemma2/counting/mean_shift": 2.5, "tiny-gemma2/spatial/mean_shift": 0.01}
    cells = [
        {"vector": name, "layer": 2, "alpha": 0.25, "tokens": "image", "n": 50, "gain": 0.0, "dropped": False, "kl": kl}
        for name, kl in names.items()
    ]
    study.mkdir()
    pq.write_table(pa.Table.from_pylist(cells), study / "cells.parquet")
    (study / "plan.json").write_text(
        json.dumps({"task": "tiny_spatial_select", "vectors": {"v": shipped_vector().sha256}})
    )
    record = {"provenance": {**CHOSEN, "vector_sha256": shipped_vector().sha256}}
    run = write_system(tmp_path / "more", STEERED, record=record)
    list(add_runs(board, [f"studied={run}"], Addition(studies=(study,))))
    assert row_of(board, "studied").kl == 0.01


def test_another_set_of_checks_checks_every_entry_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = make_board(tmp_path / "board")
    assert read_board(board, processes=1).checked == 3
    monkeypatch.setattr(checks, "_entries", dict(checks._entries))
    register_check("never", "Nothing passes.")(lambda _: Outcome("failed", "never"))
    assert read_board(board, processes=1).checked == 3


def test_a_study_that_unpacks_to_much_is_not_read(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    study_bomb(board / GROUP / "steered")
    assert row_of(board).kl is None and not refusals(board)
    with pytest.raises(UserError, match="packed with ZSTD, expected snappy"):
        read_cells(board / GROUP / "steered" / "study" / "cells.parquet")


def test_a_newer_harness_is_named_and_not_judged(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    newer = {**VERSIONS, "lmms-eval": "99.0.1"}
    run = write_system(tmp_path / "newer", STEERED, record={"versions": newer})
    list(add_runs(board, [f"newer={run}"], Addition()))
    status, detail = row_of(board, "newer").outcomes["versions"]
    assert status == "unknown" and detail.startswith("made with lmms-eval 99.0.1, newer than the ")


def test_only_what_changed_is_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = make_board(tmp_path / "board")
    first = read_board(board, processes=1)
    assert (first.checked, read_board(board, processes=1).checked) == (3, 0)
    assert read_board(board, processes=1).rows == first.rows
    edit_an_answer(board / GROUP / "steered")
    assert read_board(board, processes=1).checked == 1
    edit_an_answer(board / GROUP / "baseline")
    assert read_board(board, processes=1).checked == 3, "all three are compared with the baseline"
    assert not list(board.rglob("*.cache")) and read_board(board, processes=1, use_cache=False).checked == 3
    monkeypatch.setattr(reading, "_code_version", lambda: "newer")
    assert read_board(board, processes=1).checked == 3


def test_two_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = make_board(tmp_path / "board")
    monkeypatch.setattr(reading, "_CHUNK", 1)
    one, two = (read_board(board, processes=count, use_cache=False).rows for count in (1, 2))
    assert one == two


def test_the_command_s_status_and_table(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    words = ["leaderboard", "check", str(board), "--workers", "1"]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.output) == (0, "3 entries, 0 refused, 3 checked\n")
    again = CliRunner().invoke(app, words)
    assert again.output == "3 entries, 0 refused, 0 checked, 3 unchanged since the last check\n"
    broken = board / GROUP / "broken"
    broken.mkdir()
    (broken / "entry.json").write_text("{")
    again = CliRunner().invoke(app, words)
    assert again.output.splitlines()[-1] == "4 entries, 1 refused, 0 checked, 3 unchanged since the last check"
    shutil.rmtree(broken)
    edit_an_answer(board / GROUP / "steered")
    done = CliRunner().invoke(app, [*words, "--markdown", str(tmp_path / "table.md")])
    assert done.exit_code == 1 and f"refused: {PLACE}: scores: 1 of 100" in done.output
    table = (tmp_path / "table.md").read_text()
    assert r"| tiny-paligemma2/tiny\_spatial/steered | +10.0 [+1.3, +19.2] | ✓ | ✗ | ✓ |" in table, table


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("scores: refuse", "scores: maybe", "unknown value 'maybe' for scores"),
        ("scores: refuse", "scorse: refuse", "unknown check 'scorse'.*did you mean 'scores'"),
        ("controls: [random]", "controls: [radnom]", "unknown kind of control 'radnom'.*did you mean 'random'"),
        ("format: 1", "format: 2", "format is 2, this lmms-steer reads format 1"),
    ],
)
def test_a_wrong_rule_is_one_line(tmp_path: Path, old: str, new: str, expected: str) -> None:
    list(init_board(tmp_path, "Tiny", ""))
    rules = tmp_path / "leaderboard.yaml"
    rules.write_text(rules.read_text().replace(old, new))
    with pytest.raises(UserError, match=expected):
        read_rules(tmp_path)


def test_a_check_may_be_off(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    edit_an_answer(board / GROUP / "steered")
    rules = board / "leaderboard.yaml"
    rules.write_text(rules.read_text().replace("scores: refuse", "scores: off"))
    assert not refusals(board) and "scores" not in row_of(board).outcomes
