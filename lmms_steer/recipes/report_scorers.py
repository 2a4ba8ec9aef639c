"""Compare the two scorers on a recipe's answers: our `acc`, and `acc_paper`, that of the paper's released code."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lmms_steer._util.formatting import format_number, format_points
from lmms_steer.comparison.leaderboard import LeaderboardRow
from lmms_steer.errors import UserError
from lmms_steer.recipes.published import TASKS, paper_task
from lmms_steer.recipes.report_rows import read_study, study_folders
from lmms_steer.recipes.report_tables import aligned

_PAPER = "paper"
"""Name of the released code's scorer among `READINGS`."""


@dataclass(frozen=True)
class ScorerRow:
    """How two scorers read the answers of one model to one task. Shares are between 0 and 1.

    Attributes:
        task: the task.
        model: the model's name in the recipe.
        answers: of all systems.
        baseline: the baseline's score by `acc`, and by `acc_paper`.
        gain: the mean gain of the steered systems by each; NaN where none was run.
        only_acc: answers that `acc` counts as right, or as more right, than `acc_paper` does.
        only_paper: answers that `acc_paper` counts as more right.
    """

    task: str
    model: str
    answers: int
    baseline: tuple[float, float]
    gain: tuple[float, float]
    only_acc: int
    only_paper: int


def read_scorers(root: Path) -> list[ScorerRow]:
    """Read a recipe's evaluations once more, by `acc`. Studies that cannot be compared are left out.

    Raises:
        UserError: for a folder without evaluations.
    """
    rows: list[ScorerRow] = []
    for folder in study_folders(root):
        # what is wrong with it is a line of the report by the chosen metric
        with suppress(UserError):
            board, _ = read_study(folder, "acc")
            rows += scorer_rows(folder.parent.name, [row for row in board if not row.refused])
    return rows


def scorer_rows(model: str, board: Sequence[LeaderboardRow]) -> Iterator[ScorerRow]:
    """A row for each task of a study whose samples hold both scores.

    Args:
        model: the model's name in the recipe.
        board: the study's rows by `acc`, without those that are not compared.
    """
    for task in dict.fromkeys(row.task for row in board):
        rows = [row for row in board if row.task == task]
        base = next((row for row in rows if row.role == "baseline"), None)
        if base is None or not all(_PAPER in row.readings for row in rows):
            continue
        steered = [row for row in rows if row.role == "steered"]
        yield ScorerRow(
            task=task,
            model=model,
            answers=sum(row.n for row in rows),
            baseline=(base.score, base.readings[_PAPER].score),
            gain=(_mean([row.gain for row in steered]), _mean([row.readings[_PAPER].gain for row in steered])),
            only_acc=sum(row.readings[_PAPER].lost for row in rows),
            only_paper=sum(row.readings[_PAPER].won for row in rows),
        )


def scorer_table(rows: Sequence[ScorerRow]) -> str:
    """The section of a report; "" without rows."""
    if not rows:
        return ""
    titles = ("task", "model", "answers", "baseline", "mean gain, steered", "only acc", "only acc_paper")
    order = [task for one in TASKS for task in one.questions]
    placed = sorted(rows, key=lambda row: order.index(row.task) if row.task in order else len(order))
    cells = [
        (
            known.title if (known := paper_task(row.task)) else row.task,
            row.model,
            str(row.answers),
            " / ".join(format_number(100 * score) for score in row.baseline),
            "" if math.isnan(row.gain[0]) else " / ".join(format_points(100 * gain) for gain in row.gain),
            str(row.only_acc),
            str(row.only_paper),
        )
        for row in placed
    ]
    answers = sum(row.answers for row in rows)
    differ = sum(row.only_acc + row.only_paper for row in rows)
    explanation = (
        f"By acc / by acc_paper, on the same answers of all systems. They differ on {differ} of {answers} answers: the"
        " last columns count those that only acc, and only acc_paper, takes for right."
    )
    return "\n".join(["## The two scorers", "", *aligned([titles, *cells]), "", explanation])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
