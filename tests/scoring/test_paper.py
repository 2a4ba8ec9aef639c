"""The scorer of the paper's released code, against the outcomes that its own functions gave.

`paper_scoring.tsv` was written by running that code (ce1c0f0): one answer a line, with the rule that decided.
"""

import csv
import re
from importlib import import_module
from pathlib import Path

import pytest

from lmms_steer import UserError
from lmms_steer.scoring.paper import is_right
from lmms_steer.scoring.task_results import score_choice, score_number

TABLE = Path(__file__).parent / "paper_scoring.tsv"


def rows() -> list[dict[str, str]]:
    lines = TABLE.read_text(encoding="utf-8").splitlines()[1:]
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row['benchmark']}: {row['answer'][:30]}")
def test_every_answer_is_scored_as_the_released_code_scored_it(row: dict[str, str]) -> None:
    rotation = re.search(r"rotation (\d)", row["rule"])
    choices = row["choices"].split(" | ") if row["choices"] else []
    answer = row["answer"].replace("\\n", "\n")
    found = is_right(row["benchmark"], answer, choices, row["gold"], int(rotation[1]) if rotation else 0)
    assert found == (0.0 if row["outcome"] == "unparsed" else float(row["outcome"]))


def test_similar_documents_and_few_people_give_fractions() -> None:
    assert is_right("DocVQA", "March 1988", ["March 1998"], "March 1998") == pytest.approx(0.9)
    assert is_right("VQAv2", "three", ["2"] * 8 + ["three"] * 2, "2") == pytest.approx(2 / 3)


def test_tasks_report_it_next_to_their_own_accuracy() -> None:
    scores = score_choice("The answer is B", ["left", "right"], "B")
    assert (scores["acc"], scores["acc_paper"]) == (1.0, 0.0)
    assert score_choice("yes", ["yes", "no"], "A", benchmark="BLINK")["acc_paper"] == 0.0
    assert (score_number("b", 2)["acc"], score_number("b", 2)["acc_paper"]) == (0.0, 1.0)


def test_tasks_score_all_that_was_generated_and_read_its_first_paragraph() -> None:
    cvbench, clevr = (import_module(f"lmms_steer.tasks.{name}.utils") for name in ("cvbench", "clevr"))
    row = {"choices": ["left", "right"], "answer": "(B)", "official_weight": 1.0, "official_total": 1.0}
    scores = cvbench.process_results(row, ["B\n\nIt is on the right of the bag."])
    assert (scores["acc"], scores["acc_paper"]) == (1.0, 0.0)
    for answer in (
        "\n\nB",
        " \n\n(B)",
        "Answer:\n\nB",
        "**Answer:**\n\n**B**",
        "The correct answer is:\n\n(B)\n\nA is wrong.",
    ):
        scores = cvbench.process_results(row, [answer])
        assert (scores["acc"], scores["acc_strict"]) == (1.0, 1.0)
    scores = clevr.count_results({"answer": "4"}, ["four\n\n3 cubes and a sphere"])
    assert (scores["acc"], scores["acc_paper"]) == (1.0, 0.0)


def test_an_unknown_benchmark_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'CLEVR'"):
        is_right("CLEVRR", "3", [], "3")
