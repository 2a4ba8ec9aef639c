"""Scores of answers once more, for the tasks that ship.

A task's own `process_results` scores a stored answer, with a document made of what an entry stores: the choices, the
target and the accepted answers. Which function that is follows from the task's name alone.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

from lmms_steer._util.json import parse_json
from lmms_steer.board.samples_file import Answers, StoredAnswer
from lmms_steer.data.availability import read_task_file
from lmms_steer.harness.task_files import our_tasks, tasks_dir
from lmms_steer.scoring.choice import LETTERS
from lmms_steer.statistics import Floats


@dataclass(frozen=True)
class Scorer:
    """How the answers to a task are scored.

    Attributes:
        function: the name of its `process_results` in the folder's `utils.py`.
        document: gives the fields of a document that this function reads.
    """

    function: str
    document: Callable[[StoredAnswer], dict[str, Any]]


def _choice(stored: StoredAnswer) -> dict[str, Any]:
    return {"choices": _texts(stored.choices), "answer": stored.target}


def _caption(stored: StoredAnswer) -> dict[str, Any]:
    # the row rotates captions for `acc_paper` only, which is not scored again
    return {"captions": _texts(stored.choices), "right": stored.target, "row": 0}


def _statement(stored: StoredAnswer) -> dict[str, Any]:
    yes = {"A": True, "B": False}[stored.target]
    return {"label": int(yes), "gt": str(yes)}


def _presence(stored: StoredAnswer) -> dict[str, Any]:
    # lmms-eval's function asserts that the answer is one of these, and copies the id
    return {"answer": {"yes": "yes", "no": "no"}[stored.target], "question_id": ""}


def _clevr(stored: StoredAnswer) -> dict[str, Any]:
    # only questions about names have choices; earlier versions did not log them
    names = {"names": _texts(stored.choices)} if stored.choices else {}
    return {"answer": stored.target, "kind": "", "family": 0, **names}


def _people(stored: StoredAnswer) -> dict[str, Any]:
    return {"answers": [{"answer": text, "answer_id": i} for i, text in enumerate(_texts(stored.accepted))]}


_COUNT = Scorer("count_results", lambda stored: {"answer": stored.target})
_CLEVR = Scorer("process_results", _clevr)
SCORERS: Mapping[str, Scorer] = {
    "steer_blink": Scorer("process_results", _choice),
    "cvbench": Scorer(
        "process_results", lambda stored: {**_choice(stored), "official_weight": 0.0, "official_total": 0.0}
    ),
    "smol": Scorer("process_results", _choice),
    "tiny": Scorer("process_results", _choice),
    "whatsup": Scorer("process_results", _caption),
    "vsr": Scorer("process_results", _statement),
    "vtabfact": Scorer("table_results", _statement),
    "clevr_count": _COUNT,
    "superclevr_count": _COUNT,
    "clevr": _CLEVR,
    "superclevr": _CLEVR,
    "steer_pope": Scorer("process_results", _presence),
    "steer_chartqa": Scorer("chart_results", lambda stored: {"label": [stored.target]}),
    "steer_docvqa": Scorer("document_results", lambda stored: {"answers": _texts(stored.accepted)}),
    "steer_vqav2": Scorer("photo_results", _people),
    "steer_coco_captions": Scorer("caption_results", lambda stored: {"answer": _texts(stored.accepted)}),
}
"""Beginning of a task's name ▸ its scorer; the longest one counts. Tasks in `_ll` compare losses."""
_SCORED_BY_LMMS_EVAL = "tiny_"
"""Beginning of the names of the tasks in `_ll` without a score function of their own."""
_METRICS = ("acc", "score", "acc_lenient", "acc_strict", "rouge_l")
_ALWAYS = {"acc", "score", "acc_lenient"}
"""Those that a task's samples may hold though it does not list them."""
_END_OF_RANGE = re.compile(r"(?<=\d)-\w+(?:[.,]\d+)*")
"""What follows the hyphen of `2-3`, which earlier versions did not read: they took such an answer for 2."""
_LONGEST = 20_000
"""Most characters of an answer that is scored again."""
_MOST_PAIRS = 200_000_000
"""Most pairs of characters of answers and accepted answers that are compared (edit distance, longest common
subsequence), which takes a minute. All of DocVQA's questions have 10 million."""


def recomputed(task: str, metric: str, answers: Answers, formerly: bool = False) -> Floats | None:
    """Score the answers of a task.

    Args:
        task: as the harness calls it.
        metric: acc, score, acc_lenient, acc_strict or rouge_l.
        answers: of all questions.
        formerly: as versions did that read the first number of a range (`2-3`).

    Returns:
        The scores, in the order of the answers, NaN where an answer lacks what its score follows from (choices that
        were not logged) or is too long; None for another metric or task.
    """
    if metric not in _METRICS or our_tasks().get(task, ("", None))[0] != "task":
        return None
    different, index = answers.combinations()
    if formerly and scorer_of(task) in (_COUNT, _CLEVR):
        different = [one._replace(answer=_END_OF_RANGE.sub("", one.answer)) for one in different]
    score_one = _scoring(task, metric)
    scores: Floats = np.full(len(different), np.nan)
    pairs = 0
    for number, stored in enumerate(different):
        pairs += len(stored.answer) * len(stored.accepted)
        if pairs <= _MOST_PAIRS and len(stored.answer) <= _LONGEST:
            try:
                scores[number] = score_one(stored)
            except (ValueError, TypeError, LookupError, OverflowError):
                continue
    return scores[index]


def unknown_metric(task: str, metric: str) -> list[str]:
    """The scores of a task that ships, where `metric` is none of them; else nothing."""
    kind, file = our_tasks().get(task, ("", Path()))
    listed = (read_task_file(file).get("metric_list") or ()) if kind == "task" else ()
    known = {str(one["metric"]) for one in listed} | _ALWAYS
    return sorted(known) if listed and metric not in known else []


def scorer_of(task: str) -> Scorer | None:
    """The scorer of a task that ships; None for one that compares losses."""
    if task.endswith("_ll"):
        return None
    return SCORERS[max((name for name in SCORERS if task.startswith(name)), key=len)]


def _scoring(task: str, metric: str) -> Callable[[StoredAnswer], float]:
    scorer = scorer_of(task)
    if scorer is None:
        return _lowest_of_any_is_right if task.startswith(_SCORED_BY_LMMS_EVAL) else _lowest_is_right
    process_results = getattr(_utils(our_tasks()[task][1].parent.name), scorer.function)

    def score(stored: StoredAnswer) -> float:
        return float(process_results(scorer.document(stored), [stored.answer]).get(metric, math.nan))

    return score


def _lowest_is_right(stored: StoredAnswer) -> float:
    """As `lmms_steer.scoring.task_results.score_losses`: nothing is read where a loss is no number."""
    losses, right = _losses(stored)
    return float(all(map(math.isfinite, losses)) and losses.index(min(losses)) == right)


def _lowest_of_any_is_right(stored: StoredAnswer) -> float:
    """As lmms-eval's own score of a multiple-choice question."""
    losses, right = _losses(stored)
    return float(np.argmin(losses) == right)


def _losses(stored: StoredAnswer) -> tuple[list[float], int]:
    """The losses of the choices, and the index of the correct one."""
    right = int(stored.target) if stored.target.isdecimal() else LETTERS.index(stored.target)
    return [float(pair[0]) for pair in parse_json(stored.answer)], right


def _texts(stored: str) -> list[str]:
    """The texts of a stored list.

    Raises:
        ValueError: if none were stored.
    """
    texts = [str(text) for text in parse_json(stored)]
    if not texts:
        raise ValueError("an empty list")
    return texts


@cache
def _utils(folder: str) -> Any:
    """The `utils.py` of tasks that ship."""
    spec = spec_from_file_location(f"_rescoring_{folder}", Path(tasks_dir()) / folder / "utils.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
