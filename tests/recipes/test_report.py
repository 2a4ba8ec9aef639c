"""`lmms-steer report`: the paper's tables from a recipe's runs, and what they cannot be compared with."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lmms_steer import UserError
from lmms_steer.cli import app
from lmms_steer.recipes.cells import Cell
from lmms_steer.recipes.ledger import Ledger
from lmms_steer.recipes.report import run_report
from lmms_steer.steering.spec import SteeringSpec
from tests.helpers.runs import write_run

PALIGEMMA = "google/paligemma2-3b-mix-448"


def scores(right: int, n: int = 150) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


def write_system(
    root: Path, place: str, task: str, values: list[float], spec: str = "", checkpoint: str = PALIGEMMA, **more: Any
) -> None:
    # acc disagrees with acc_paper: the report must use the latter
    paper = {"sample": lambda number: {"acc": 0.0, "score": 0.0, "acc_paper": values[number]}}
    record = {"model": checkpoint, "spec": spec or None, "sha256": "5" * 64 if spec else None, "vectors": [], **more}
    write_run(root / "runs" / place, {task: values}, spec=None, results={"steering": record}, **paper)  # type: ignore[arg-type]


def spec(concept: str, tokens: str, more: str = "", method: str = "mean_shift") -> str:
    return f"vector=out/vectors/gemma-2-2b/{concept}/{method}.safetensors,layer=12,alpha=0.4,tokens={tokens}{more}"


def write_recipe_folder(root: Path) -> None:
    task, study = "cvbench_relation_test", "paligemma2-3b/relation"
    write_system(root, f"{study}/baseline", task, scores(100))
    write_system(root, f"{study}/prompted", f"{task}_prompted_paper", scores(103))
    write_system(root, f"{study}/spatial-mean_shift-image", task, scores(111), spec("spatial", "image"))
    random = spec("spatial", "image", ",control=random:0")
    write_system(root, f"{study}/spatial-mean_shift-image-random-0", task, scores(102), random)
    write_system(root, f"{study}/counting-mean_shift-text_paper", task, scores(99), spec("counting", "text_paper"))
    random = spec("counting", "text_paper", ",control=random:0")
    write_system(root, f"{study}/counting-mean_shift-text_paper-random-0", task, scores(90), random)
    sae = spec("spatial", "image", method="sae")
    write_system(root, f"{study}/spatial-sae-image", task, scores(129), sae)


def table_of(lines: list[str], title: str) -> list[list[str]]:
    first = next(number for number, line in enumerate(lines) if line.startswith(f"## {title}"))
    rows: list[list[str]] = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip().replace("\\", "") for cell in line.strip("|").split(" | ")])
    return rows


def test_rows_are_models_methods_and_targets_with_intervals_and_random_vectors(tmp_path: Path) -> None:
    write_recipe_folder(tmp_path)
    lines = list(run_report(tmp_path, "acc_paper"))
    assert "## CV-Bench Relation (`cvbench_relation_test`, 150 questions, acc_paper)" in lines
    titles, _, *rows = table_of(lines, "CV-Bench Relation")
    assert titles == ["model", "method", "target", "no vector", "counting", "spatial"]
    found = {tuple(row[:3]): row[3:] for row in rows}
    order = ["baseline", "prompting", "mean_shift image", "mean_shift text_paper", "sae image"]
    assert [" ".join(key[1:]).strip() for key in found] == order
    assert found["paligemma2-3b", "baseline", ""] == ["66.7", "", ""]
    assert found["paligemma2-3b", "prompting", ""][0].startswith("+2.0 [")
    image = found["paligemma2-3b", "mean_shift", "image"][2]
    assert image.startswith("+7.3 [") and image.endswith("]*; +1.3")
    text = found["paligemma2-3b", "mean_shift", "text_paper"][1]
    assert text.startswith("-0.7 [") and text.endswith("]; -6.7")
    assert found["paligemma2-3b", "mean_shift", "text_paper"][2] == ""
    assert (tmp_path / "report.md").read_text().splitlines() == lines[:-1]
    (row,) = [
        row
        for row in csv.DictReader((tmp_path / "report.csv").open())
        if (row["method"], row["target"]) == ("mean_shift", "image")
    ]
    assert (row["layer"], row["alpha"], row["n"], row["metric"]) == ("12", "0.4", "150", "acc_paper")
    assert float(row["gain"]) == pytest.approx(11 / 150) and float(row["random"]) == pytest.approx(2 / 150)


def test_a_stored_vector_is_called_by_its_method_s_whole_name(tmp_path: Path) -> None:
    task, study = "cvbench_relation_test", "paligemma2-3b/relation"
    write_system(tmp_path, f"{study}/baseline", task, scores(100))
    own = "vector=gemma-2-2b/turning/reft-v1.2,layer=12,alpha=0.4,tokens=image"
    write_system(tmp_path, f"{study}/reft-v1.2-image", task, scores(105), own)
    row = table_of(list(run_report(tmp_path, "acc_paper")), "CV-Bench Relation")[-1]
    assert row[1:3] == ["reft-v1.2", "image"]


def test_scores_that_are_no_shares_are_shown_as_they_are(tmp_path: Path) -> None:
    task, study = "cider", "paligemma2-3b/captions"
    for name, points, own in (("baseline", 60.0, ""), ("spatial-mean_shift-image", 62.5, spec("spatial", "image"))):
        write_system(tmp_path, f"{study}/{name}", task, [points - 10, points + 10] * 20, own)
    _, _, baseline, steered = table_of(list(run_report(tmp_path, "acc_paper")), "cider")
    assert baseline[3] == "60.0" and steered[4].startswith("+2.5 [")
    gains = [row["gain"] for row in csv.DictReader((tmp_path / "report.csv").open())]
    assert gains == ["", "2.5"]


def test_studies_of_one_task_share_a_table_unless_their_numbers_differ(tmp_path: Path) -> None:
    write_recipe_folder(tmp_path)
    task, other = "cvbench_relation_test", "paligemma2-3b/other"
    write_system(tmp_path, f"{other}/baseline", task, scores(100))
    write_system(tmp_path, f"{other}/entity-mean_shift-image", task, scores(105), spec("entity", "image"))
    lines = list(run_report(tmp_path, "acc_paper"))
    titles, *_ = table_of(lines, "CV-Bench Relation")
    assert set(titles[4:]) == {"counting", "spatial", "entity"}
    # the same cell, of another choice: a study that was renamed after its alphas were changed
    write_system(tmp_path, f"{other}/spatial-mean_shift-image", task, scores(90), spec("spatial", "image"))
    lines = list(run_report(tmp_path, "acc_paper"))
    gains = {}
    for study in ("other", "relation"):
        titles, _, *rows = table_of(lines, f"CV-Bench Relation (`{task}`, study {study}, 150 questions")
        (row,) = [row for row in rows if row[1:3] == ["mean_shift", "image"]]
        gains[study] = row[titles.index("spatial")].split(" ")[0]
    assert gains == {"other": "-6.7", "relation": "+7.3"}


def test_a_published_gain_stands_beside_the_largest_of_its_rows_and_none_is_invented(tmp_path: Path) -> None:
    write_recipe_folder(tmp_path)
    _, _, *rows = table_of(list(run_report(tmp_path, "acc_paper")), "Published gains")
    published = {row[0]: row[1:] for row in rows}
    # the abstract's and summaries' four numbers; the SAE's larger gain is not of the mean shift
    assert [row[0] for row in published.values()] == ["up to +7.3", "up to +3.3", "+34.2", "+15.8"]
    gain, here, count, row = published["CV-Bench Relation, mean shift"]
    assert here.startswith("+7.3 [") and count == "2 rows"
    assert row == "CV-Bench Relation: paligemma2-3b, spatial, mean_shift, image"
    assert published["CLEVR counting"][1] == "not run"


def test_rows_of_the_paper_that_were_not_run_are_one_line_each(tmp_path: Path) -> None:
    write_recipe_folder(tmp_path)
    lines = [line for line in run_report(tmp_path, "acc_paper") if line.startswith("* ")]
    assert "* not run: idefics3-8b: every task" in lines
    assert "* not run: paligemma2-3b, linear_probe: every task" in lines
    assert "* not run: paligemma2-3b, mean_shift, both_paper: every task" in lines
    (image,) = [line for line in lines if line.startswith("* not run: paligemma2-3b, mean_shift, image: ")]
    assert "CV-Bench Count" in image and "CV-Bench Relation" not in image
    assert any("not in these tables: COCO captions" in line for line in lines)
    assert not any("gemma3-4b, sae" in line for line in lines), "the paper has no such row"


@pytest.mark.parametrize(
    ("place", "task", "values", "more", "expected"),
    [
        (
            "paligemma2-3b/relation",
            "cvbench_relation_test",
            8,
            {},
            "CV-Bench Relation was run on 8 questions, not on 150",
        ),
        (
            "paligemma2-3b/relation",
            "cvbench_relation_test",
            150,
            {"checkpoint": "tiny-paligemma2"},
            "paligemma2-3b was run with tiny-paligemma2, not with paligemma2-3b-mix-448",
        ),
    ],
)  # fmt: skip
def test_stand_ins_are_named_and_not_set_beside_published_gains(
    tmp_path: Path, place: str, task: str, values: int, more: dict[str, Any], expected: str
) -> None:
    write_system(tmp_path, f"{place}/baseline", task, scores(4, values), **more)
    write_system(tmp_path, f"{place}/mean_shift-image", task, scores(6, values), spec("spatial", "image"), **more)
    lines = list(run_report(tmp_path, "acc_paper"))
    assert f"* not the paper's: {expected}" in lines
    _, _, first, *_ = table_of(lines, "Published gains")
    assert first[2] == "no row is of the paper's model, questions and scorer"


def test_another_score_is_not_set_beside_published_gains(tmp_path: Path) -> None:
    write_recipe_folder(tmp_path)
    lines = list(run_report(tmp_path))
    assert "* not the paper's: answers were scored by score, not by acc_paper" in lines
    assert "no row is of the paper's model" in next(line for line in lines if "CV-Bench Relation, mean shift" in line)


def test_the_gain_on_the_training_questions_and_its_p_are_those_of_the_target(tmp_path: Path) -> None:
    write_recipe_folder(tmp_path)
    cell = {"layer": 12, "alpha": 0.4, "tokens": "image", "accuracy": 0.7, "gain": 0.02, "low": 0, "high": 0.1,
            "p": 0.2, "fixed": 3, "broken": 1}  # fmt: skip
    more = {"winner": False, "cells_tried": 3, "finalists": 3, "counted_on": 150}
    target = {"best": {**cell, **more, "p_corrected": 0.25}, "one_standard_error": cell, "controls": {}}
    whole = {**target, "best": {**cell, **more, "gain": 0.5, "p_corrected": 0.5}, "targets": {"image": target}}
    folder = tmp_path / "search/paligemma2-3b/relation/spatial-mean_shift"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"n": 9, "baseline": 0.5, "cells": 3, "vectors": {"v": whole}}))
    list(run_report(tmp_path, "acc_paper"))
    rows = list(csv.DictReader((tmp_path / "report.csv").open()))
    (image,) = [row for row in rows if (row["method"], row["target"]) == ("mean_shift", "image")]
    assert (image["train_gain"], image["train_p"]) == ("0.02", "0.25")
    # the search was run again, and the evaluation not yet
    target["best"] |= {"layer": 3, "alpha": -3.0}
    (folder / "result.json").write_text(json.dumps({"n": 9, "baseline": 0.5, "cells": 3, "vectors": {"v": whole}}))
    lines = list(run_report(tmp_path, "acc_paper"))
    stale = (
        "spatial-mean_shift-image on cvbench_relation_test: it was measured before its search chose layer 3, alpha -3"
    )
    assert any(line.startswith(f"* not compared: paligemma2-3b, {stale}") for line in lines)
    rows = list(csv.DictReader((tmp_path / "report.csv").open()))
    assert not [
        row for row in rows if (row["method"], row["concept"], row["target"]) == ("mean_shift", "spatial", "image")
    ]


def test_evaluations_of_an_earlier_search_are_not_set_beside_a_new_one_of_the_same_place(tmp_path: Path) -> None:
    write_recipe_folder(tmp_path)
    place, task = "paligemma2-3b/relation", "cvbench_relation_test"
    first: dict[str, Any] = {"provenance": {"study": "a" * 64}}
    chosen = spec("spatial", "image")
    write_system(tmp_path, f"{place}/spatial-mean_shift-image", task, scores(111), chosen, **first)
    random = chosen + ",control=random:0"
    write_system(tmp_path, f"{place}/spatial-mean_shift-image-random-0", task, scores(102), random, **first)
    folder = tmp_path / "search" / place / "spatial-mean_shift"
    folder.mkdir(parents=True)
    lines = []
    for study in ("a" * 64, "b" * 64):
        now = SteeringSpec(SteeringSpec.parse(chosen).interventions, {"study": study})
        (folder / "choice_image.yaml").write_text(now.to_yaml())
        lines.append([line for line in run_report(tmp_path, "acc_paper") if "made anew" in line])
    system = "not compared: paligemma2-3b, spatial-mean_shift-image"
    why = f"on {task}: it was measured before its search was made anew"
    assert lines == [[], [f"* {system} {why}", f"* {system}-random-0 {why}"]]


@pytest.mark.parametrize("name", ["late", "spatial-mean_shift", "a-random-7", "mean_shift-random-walk"])
def test_a_recipe_s_own_system_with_a_chosen_vector_has_a_row_of_its_own(tmp_path: Path, name: str) -> None:
    write_recipe_folder(tmp_path)
    study = "paligemma2-3b/relation"
    # the largest gain of all, with the vector and the tokens of spatial-mean_shift-image
    own = spec("spatial", "image").replace("layer=12", "layer=20")
    write_system(tmp_path, f"{study}/{name}", "cvbench_relation_test", scores(140), own)
    given = f"pretrained=p,{own}"
    chosen = "pretrained=p,steering=out/choice.yaml"
    plan = [
        Cell(f"evaluate/{study}/{path.name}", "evaluate", ("lmms-eval", given if path.name == name else chosen))
        for path in (tmp_path / "runs" / study).iterdir()
    ]
    Ledger(tmp_path).begin(plan)
    lines = list(run_report(tmp_path, "acc_paper"))
    titles, _, *rows = table_of(lines, "CV-Bench Relation")
    gains = {tuple(row[1:3]): row[titles.index("spatial")] for row in rows}
    assert gains["mean_shift", "image"].startswith("+7.3 [") and gains["mean_shift", "image"].endswith("; +1.3")
    assert gains[name, ""].startswith("+26.7 [")
    _, _, first, *_ = table_of(lines, "Published gains")
    assert first[2].startswith("+7.3 [") and first[3] == "2 rows"
    systems = {row["system"]: row["method"] for row in csv.DictReader((tmp_path / "report.csv").open())}
    assert systems[name] == name and systems["spatial-mean_shift-image"] == "mean_shift"


def test_random_vectors_beside_a_choice_are_in_its_comparison_and_not_in_the_report(tmp_path: Path) -> None:
    write_recipe_folder(tmp_path)
    list(run_report(tmp_path, "acc_paper"))
    before = (tmp_path / "report.csv").read_text()
    own = spec("spatial", "image", ",control=random:0")
    beside = "paligemma2-3b/relation/spatial-mean_shift-image-beside-0"
    write_system(tmp_path, beside, "cvbench_relation_test", scores(90), own)
    list(run_report(tmp_path, "acc_paper"))
    rows, known = (list(csv.DictReader(text.splitlines())) for text in ((tmp_path / "report.csv").read_text(), before))
    compared = ("system", "gain", "random")
    assert [[row[name] for name in compared] for row in rows] == [[row[name] for name in compared] for row in known]


def test_without_a_plan_a_choice_is_known_by_its_name(tmp_path: Path) -> None:
    write_recipe_folder(tmp_path)
    own = spec("spatial", "image", ",control=random:0")
    write_system(tmp_path, "paligemma2-3b/relation/late", "cvbench_relation_test", scores(90), own)
    titles, _, *rows = table_of(list(run_report(tmp_path, "acc_paper")), "CV-Bench Relation")
    gains = {tuple(row[1:3]): row[titles.index("spatial")] for row in rows}
    assert gains["mean_shift", "image"].endswith("; +1.3") and gains["late", ""].startswith("-6.7 [")


def test_runs_that_cannot_be_compared_are_one_line_each(tmp_path: Path) -> None:
    write_recipe_folder(tmp_path)
    write_system(
        tmp_path, "idefics3-8b/depth/mean_shift-image", "cvbench_depth_test", scores(9), spec("spatial", "image")
    )
    lines = list(run_report(tmp_path, "acc_paper"))
    assert any(
        line.startswith("* not compared: idefics3-8b, depth: unknown run for --baseline 'baseline'") for line in lines
    )
    with pytest.raises(UserError, match="no evaluations of a recipe in"):
        list(run_report(tmp_path / "none"))


def test_systems_that_the_last_plan_does_not_have_are_left_out(tmp_path: Path) -> None:
    write_recipe_folder(tmp_path)
    study = tmp_path / "runs/paligemma2-3b/relation"
    names = [path.name for path in study.iterdir() if "sae" not in path.name]
    cells = [Cell(f"evaluate/paligemma2-3b/relation/{name}", "evaluate", ()) for name in names]
    Ledger(tmp_path).begin(cells)
    lines = list(run_report(tmp_path, "acc_paper"))
    assert "* not compared: paligemma2-3b, relation: spatial-sae-image: it is not in the plan of the last run" in lines
    _, _, *rows = table_of(lines, "CV-Bench Relation")
    assert not any("sae" in row[1] for row in rows) and any("mean_shift" in row[1] for row in rows)


def test_the_command_prints_the_tables(tmp_path: Path) -> None:
    write_recipe_folder(tmp_path)
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--metric", "acc_paper"])
    assert done.exit_code == 0 and "## Published gains" in done.output


def write_scored(root: Path, system: str, acc: str, paper: str, spec: str = "") -> None:
    """An evaluation of eight questions, each scored by both scorers: `1` is right, `0` is wrong."""
    marks = [{"acc": float(a), "score": float(a), "acc_paper": float(p)} for a, p in zip(acc, paper, strict=True)]
    hashed = {"sha256": "5" * 64 if spec else None}
    record: dict[str, Any] = {"model": PALIGEMMA, "spec": spec or None, "vectors": [], **hashed}
    folder = root / "runs/paligemma2-3b/relation" / system
    values = {"cvbench_relation_test": [mark["acc"] for mark in marks]}
    write_run(folder, values, spec=None, results={"steering": record}, sample=lambda number: marks[number])


def test_the_two_scorers_are_compared_on_the_same_answers(tmp_path: Path) -> None:
    write_scored(tmp_path, "baseline", "11110000", "11000000")
    write_scored(tmp_path, "spatial-mean_shift-image", "11111100", "11110001", spec("spatial", "image"))
    random = spec("spatial", "image", ",control=random:0")
    write_scored(tmp_path, "spatial-mean_shift-image-random-0", "11110000", "11110000", random)
    for metric in ("acc_paper", None):
        lines = list(run_report(tmp_path, metric))
        titles, _, *rows = table_of(lines, "The two scorers")
        assert titles == ["task", "model", "answers", "baseline", "mean gain, steered", "only acc", "only acc_paper"]
        # baseline 4 and 2 of 8; steered 6 and 5; a random vector counts only among the answers
        assert rows == [["CV-Bench Relation", "paligemma2-3b", "24", "50.0 / 25.0", "+25.0 / +37.5", "4", "1"]]
        assert any("They differ on 5 of 24 answers" in line for line in lines)


def test_a_study_without_the_paper_s_scorer_has_no_row_of_scorers(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/m/s/baseline", {"t": [1.0, 0.0]}, spec=None)
    write_run(tmp_path / "runs/m/s/prompted", {"t_prompted": [1.0, 0.0]}, spec=None)
    assert not any("The two scorers" in line for line in run_report(tmp_path))
