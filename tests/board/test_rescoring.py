"""Scores follow from what an entry stores, for every task that ships, and what does not follow is said."""

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from lmms_steer.board.adding import Addition, add_runs
from lmms_steer.board.reading import read_board
from lmms_steer.board.rescoring import _SCORED_BY_LMMS_EVAL, recomputed, scorer_of
from lmms_steer.board.samples_file import Answers, Texts
from lmms_steer.board.templates import init_board
from lmms_steer.harness.task_files import our_tasks
from lmms_steer.scoring.task_results import process_losses
from tests.board.test_checks import GROUP, row_of
from tests.helpers.board_faults import change_samples, sign
from tests.helpers.boards import TASK, make_board, write_system
from tests.helpers.runs import BASE, TASK_CONFIG, write_run

LOSSES = '[["0.45", "True"], ["1.02", "False"]]'
SIDES = ["left", "right"]
BUSES = ["mountain bike", "regular bus", "school bus"]
# ten people, of whom two say red
PEOPLE = ["red"] * 2 + ["blue"] * 8
DEEP = "[" * 100_000


def scores(task: str, answer: str, target: str, choices: Any = None, accepted: Any = None, metric: str = "acc") -> Any:
    stored = (json.dumps(texts) if texts else "" for texts in (choices, accepted))
    columns = (Texts([value], np.array([0])) for value in (answer, target, *stored))
    found = recomputed(task, metric, Answers(*columns))
    return None if found is None else found.tolist()


@pytest.mark.parametrize(
    ("task", "answer", "target", "choices", "accepted", "expected"),
    [
        ("tiny_spatial_ll", LOSSES, "0", None, None, 1.0),
        ("tiny_spatial_ll", LOSSES, "1", None, None, 0.0),
        ("clevr_count_test", "There are 3 cubes.", "3", None, None, 1.0),
        ("cvbench_relation_test", "(B) right\n\nor (A)", "B", SIDES, None, 1.0),
        ("steer_blink_counting", "(A)", "B", SIDES, None, 0.0),
        ("whatsup_a_test", "The cup is left of the plate", "A", ["The cup is left of the plate", "other"], None, 1.0),
        ("vsr_random_test", "No.", "B", SIDES, None, 1.0),
        ("vtabfact_test", "(A)", "B", None, None, 0.0),
        ("smol_counting", "two", "A", ["2", "3"], None, 1.0),
        ("clevr", "It is made of metal", "metal", None, None, 1.0),
        ("clevr", "yes", "no", None, None, 0.0),
        ("clevr", "There are four.", "4", None, None, 1.0),
        ("clevr", "The answer is A", "yes", None, None, 0.0),
        ("superclevr", "A school bus.", "school bus", BUSES, None, 1.0),
        ("superclevr", "It is a school bus", "school bus", BUSES, None, 1.0),
        ("superclevr", "a mountain bike", "school bus", BUSES, None, 0.0),
        ("superclevr", "a mountain bike", "school bus", ["school bus"], None, 0.0),
        ("superclevr_count_test", "5", "4", None, None, 0.0),
        ("steer_pope_adv_test", "No", "no", None, None, 1.0),
        ("steer_pope_adv_test", "Yes, it is", "yes", None, None, 0.0),
        # a number may be off by 5%
        ("steer_chartqa_human_test", "43", "42", None, None, 1.0),
        ("steer_chartqa_machine_test", "47", "42", None, None, 0.0),
        # one of eight characters differs
        ("steer_docvqa_layout_test", "march 13", "12 March", None, ["12 March", "March 12"], 7 / 8),
        # leaving each person out: two have one that agrees with red, eight have two; three are full marks
        ("steer_vqav2_test", "red", "blue", None, PEOPLE, (2 * 1 / 3 + 8 * 2 / 3) / 10),
        ("steer_vqav2_test", "Blue.", "blue", None, PEOPLE, 1.0),
    ],
)
def test_a_score_follows_from_what_is_stored(
    task: str, answer: str, target: str, choices: Any, accepted: Any, expected: float
) -> None:
    assert scores(task, answer, target, choices, accepted) == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("task", "answer", "target", "former"),
    [
        ("clevr_count_test", "2-3", "2", 1.0),
        ("clevr_count_test", "There are 2-three of 1,000-2,000.", "2", 0.0),
        ("clevr", "about 10-12.", "10", 1.0),
        ("clevr_count_test", "2-3", "3", 0.0),
        ("clevr_count_test", "3", "3", 1.0),
        ("tiny_spatial", "2-3", "A", 0.0),
    ],
)
def test_earlier_versions_read_the_first_number_of_a_range(task: str, answer: str, target: str, former: float) -> None:
    columns = (Texts([value], np.array([0])) for value in (answer, target, json.dumps(SIDES), ""))
    found = recomputed(task, "acc", Answers(*columns), formerly=True)
    assert found is not None and found.tolist() == [former]


def test_scores_of_an_earlier_version_are_named_and_not_refused(tmp_path: Path) -> None:
    board = tmp_path / "board"
    list(init_board(board, "title", ""))

    def outcome(score: float) -> list[str]:
        """Of an entry with one answer `2-3` to a question whose answer is 2, and one that is right."""
        answers, task = ["2-3", "2"], "clevr_count_test"
        run = write_run(
            tmp_path / "run",
            {task: [score, 1.0]},
            answer=lambda number, score: answers[number],
            results={"model_name": "tiny"},
            sample={"target": "2"},
        )
        list(add_runs(board, [f"old={run}"], Addition(replace=True)))
        (row,) = read_board(board, use_cache=False).rows
        return row.outcomes["scores"]

    assert outcome(1.0) == ["unknown", "1 of 2 scores are of an earlier version, which read 2 from `2-3`"]
    assert outcome(0.0) == ["passed", "2 scores recomputed"]
    assert outcome(0.5)[0] == "failed"


@pytest.mark.parametrize(
    "losses", [[math.nan, math.nan], [2.0, math.inf], [2.0, math.nan], [math.inf, 2.0], [1.0, 2.0]]
)
def test_losses_that_are_no_numbers_are_scored_as_the_task_scores_them(losses: list[float]) -> None:
    # as the answers are stored: lmms-eval writes its pairs as text
    stored = json.dumps([[str(loss), "False"] for loss in losses])
    task = process_losses({"choices": SIDES, "answer": "(A)"}, [(loss, False) for loss in losses])["acc"]
    assert scores("cvbench_relation_test_ll", stored, "0", SIDES) == [task] == [float(losses == [1.0, 2.0])]
    # lmms-eval's own score of multiple-choice questions
    assert scores("tiny_spatial_ll", stored, "0") == [float(np.argmin(losses) == 0)]


@pytest.mark.parametrize(
    ("reported", "filters", "expected"),
    [
        ({"acc,none": 0.5}, None, ["unknown", "score of mine cannot be recomputed; its mean is the harness's"]),
        ({"acc,none": 0.9}, None, ["failed", "the scores' mean is 0.5000, the results file says 0.9000"]),
        ({"acc,none": math.nan}, None, ["failed", "the scores' mean is 0.5000, the results file says nan"]),
        ({"acc,strict": 0.9}, None, ["failed", "the scores' mean is 0.5000, the results file says 0.9000"]),
        (
            {"acc,loose": 0.5, "acc,strict": 0.9},
            ["strict", "loose"],
            ["failed", "the scores' mean is 0.5000, the results file says 0.9000"],
        ),
        (
            {"acc,loose": 0.9, "acc,strict": 0.5, "acc_stderr,strict": 0.1},
            ["strict", "loose"],
            ["unknown", "score of mine cannot be recomputed; its mean is the harness's"],
        ),
        ({"wer,none": 0.9}, None, ["unknown", "score of mine cannot be recomputed; its mean is not compared"]),
    ],
)
def test_the_mean_that_the_harness_reports_is_that_of_the_first_filter(
    tmp_path: Path, reported: dict[str, float], filters: list[str] | None, expected: list[str]
) -> None:
    config = {**TASK_CONFIG, "filter_list": [{"name": name} for name in filters or ()] or None}
    results = {"results": {"mine": reported}, "configs": {"mine": config}}
    run = write_run(tmp_path / "run", {"mine": [1.0, 0.0]}, results=results)
    list(init_board(tmp_path / "board", "Mine", ""))
    list(add_runs(tmp_path / "board", [f"baseline={run}"], Addition()))
    assert row_of(tmp_path / "board", "baseline").outcomes["scores"] == expected


def test_scores_that_are_recomputed_do_not_claim_a_mean_that_was_not_compared(tmp_path: Path) -> None:
    run = write_system(tmp_path / "run", BASE, steered=False, results={"results": {TASK: {"alias": TASK}}})
    list(init_board(tmp_path / "board", "Tiny", ""))
    list(add_runs(tmp_path / "board", [f"baseline={run}"], Addition()))
    assert row_of(tmp_path / "board", "baseline").outcomes["scores"] == [
        "passed",
        "100 scores recomputed; their mean is not compared",
    ]


def test_a_caption_s_score_follows_from_its_references() -> None:
    references = ["a red circle over a blue square", "red over blue"]
    # of four words "red over blue" is the longest common subsequence: F of precision 3/4 and recall 1, beta 1.2
    f = (1 + 1.2**2) * 3 / 4 / (1 + 1.2**2 * 3 / 4)
    found = scores("steer_coco_captions_test", "red over blue now", "", None, references[1:], "rouge_l")
    assert found == [pytest.approx(f)]
    assert scores("steer_coco_captions_test", references[0], "", None, references, "score") == [1.0]
    assert scores("steer_coco_captions_test", references[0], "", None, references, "cider") is None


def test_the_scorer_of_every_task_that_ships_is_its_own() -> None:
    tasks = {name: path for name, (kind, path) in our_tasks().items() if kind == "task"}
    assert len(tasks) > 150
    for name, path in tasks.items():
        scorer = scorer_of(name)
        own = process_results_of(path)
        if scorer:
            assert own.removeprefix("utils.") == scorer.function, name
        else:
            assert "losses" in own or (own == "None" and name.startswith(_SCORED_BY_LMMS_EVAL)), name


def process_results_of(path: Path) -> str:
    """The function that a task's file names, or the first of the files that it includes."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda _, node: node.value)
    content = yaml.load(path.read_text(), Loader)
    if "process_results" in content:
        return str(content["process_results"])
    included = content["include"]
    return process_results_of(path.with_name(included if isinstance(included, str) else included[0]))


def test_what_does_not_follow_is_not_known() -> None:
    assert scores("mme", "yes", "yes") is None and scores("text_steers_vision", "A", "A") is None
    assert scores("clevr", "yes", "yes", metric="acc_exist") is None
    for task, answer, target, choices in (
        ("cvbench_relation_test", "(A)", "B", None),
        ("steer_pope_adv_test", "yes", "maybe", None),
        ("steer_docvqa_layout_test", "x", "x", None),
        ("tiny_spatial_ll", DEEP, "0", None),
        ("vsr_random_test", "A", "Z", None),
        ("superclevr", "a school bus", "school bus", None),
        ("clevr_count_test", "3", "9" * 400, None),
        ("clevr", "x" * 30_000, "yes", None),
    ):
        assert math.isnan(scores(task, answer, target, choices)[0]), task
    deep = (Texts([text], np.array([0])) for text in ("x", "x", "", DEEP))
    assert math.isnan(recomputed("steer_vqav2_test", "acc", Answers(*deep))[0])  # type: ignore[index]


def test_answers_that_are_slow_to_compare_are_left_after_a_while() -> None:
    accepted = json.dumps(["y" * 10_000] * 10)
    count = 3000
    stored = (
        Texts([f"{n:05}" + "x" * 15_000 for n in range(count)], np.arange(count)),
        *(Texts([value], np.zeros(count, int)) for value in ("y", "", accepted)),
    )
    start = time.process_time()
    found = recomputed("steer_docvqa_layout_test", "acc", Answers(*stored))
    assert found is not None and np.isnan(found).all() and time.process_time() - start < 10


def test_an_entry_of_documents_is_scored_again_and_one_without_accepted_answers_is_refused(tmp_path: Path) -> None:
    task, board = "steer_docvqa_layout_test", tmp_path / "board"
    answers = {1.0: "march 12", 7 / 8: "march 13", 0.0: "no idea"}
    run = write_run(
        tmp_path / "run",
        {task: [1.0, 7 / 8, 0.0]},
        answer=lambda _, score: answers[score],
        sample={"accepted": ["12 March", "March 12"]},
    )
    list(init_board(board, "Documents", ""))
    list(add_runs(board, [f"baseline={run}"], Addition()))
    assert row_of(board, "baseline").outcomes["scores"] == ["passed", "3 scores recomputed"]
    folder = board / "entries" / "tiny" / task / "baseline"
    path = folder / "samples.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["accepted"]), path)
    sign(folder)
    assert row_of(board, "baseline").outcomes["scores"] == [
        "failed",
        "3 of 3 scores cannot be recomputed from what the samples hold",
    ]


def test_a_row_that_cannot_be_scored_again_hides_no_other_one(tmp_path: Path) -> None:
    board = make_board(tmp_path / "board")
    change_samples(
        board / GROUP / "steered",
        choices=lambda values: ["", *values[1:]],
        # a right and a wrong one are exchanged, so that their mean is as before
        score=lambda values: [*values[:54], 0.0, 1.0, *values[56:]],
    )
    (reason,) = dict(read_board(board, processes=1).refusals()).values()
    assert reason.startswith("scores: 2 of 100 scores are not those of the answers, first of question 54")
