"""The share of answers that say yes, beside that of the labels, counted by hand."""

from pathlib import Path
from typing import Any

import pytest

from lmms_steer.comparison.leaderboard import build_leaderboard
from lmms_steer.comparison.systems import read_comparison
from lmms_steer.comparison.tables import text_table
from tests.helpers.runs import write_run

ANSWERS = ["Yes", "yes, there is", "**Yes.**", "no", "No yes", "Yesterday", "", "  ", "none", "maybe yes"]
"""Three say yes, two are empty."""


def rows_of(folder: Path) -> list[dict[str, str]]:
    titles, rows = text_table(build_leaderboard(read_comparison([str(folder)]).systems))
    return [dict(zip(titles, row, strict=True)) for row in rows]


def test_answers_that_say_yes_are_counted_and_not_the_labels(tmp_path: Path) -> None:
    def sample(answers: list[str]) -> Any:
        return lambda i: {"target": ["yes", "no", "no", "no"][i % 4], "filtered_resps": [answers[i]], "unparsed": 0.0}

    write_run(tmp_path / "baseline", {"pope": [1.0] * 10}, sample=sample(["no"] * 10))
    write_run(tmp_path / "s", {"pope": [0.0] * 10}, spec="vector=v,layer=1", sample=sample(ANSWERS))
    baseline, steered = rows_of(tmp_path)
    assert (baseline["yes"], steered["yes"]) == ("0.0% (of 30.0%)", "30.0% (of 30.0%)")
    assert (baseline["empty"], steered["empty"]) == ("0.0%", "20.0%")


def test_letters_count_by_the_text_behind_them(tmp_path: Path) -> None:
    def sample(parsed: str) -> Any:
        # yes is A in every second question
        return lambda i: {
            "target": "A", "choices": ["yes", "no"][:: 1 if i % 2 else -1], "parsed": parsed, "filtered_resps": ["Yes"],
        }  # fmt: skip

    write_run(tmp_path / "baseline", {"a": [1.0] * 10}, sample=sample("A"))
    write_run(tmp_path / "s", {"a": [0.0] * 10}, spec="vector=v,layer=1", sample=sample(""))
    assert [row["yes"] for row in rows_of(tmp_path)] == ["50.0% (of 50.0%)", "0.0% (of 50.0%)"]


@pytest.mark.parametrize("last", ["red", "yes there"])
def test_a_task_with_another_label_has_no_such_column(tmp_path: Path, last: str) -> None:
    def sample(i: int) -> dict[str, Any]:
        return {"target": "yes" if i < 9 else last, "filtered_resps": ["yes"]}

    for name in ("baseline", "s"):
        write_run(tmp_path / name, {"a": [1.0] * 10}, spec="" if name == "baseline" else "vector=v", sample=sample)
    assert not {"yes", "empty"} & rows_of(tmp_path)[0].keys()
