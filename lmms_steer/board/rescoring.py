"""Scores of answers once more, for the tasks that ship: from the answer, the choices and the target alone."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np

from lmms_steer.board.samples_file import Answers
from lmms_steer.harness.task_files import our_tasks, tasks_dir
from lmms_steer.scoring.choice import LETTERS, parse_choice
from lmms_steer.scoring.number import parse_number
from lmms_steer.scoring.task_results import first_paragraph
from lmms_steer.statistics import Floats

Scorer = Callable[[str, Sequence[str], str, bool], float]
"""(answer, choices, target, strict) ▸ score."""


def recomputed(task: str, metric: str, answers: Answers) -> Floats | None:
    """Score the answers of a task.

    Args:
        task: as the harness calls it.
        metric: acc, score, acc_lenient or acc_strict.
        answers: of all questions.

    Returns:
        The scores, in the order of the answers; None for another metric, or a task whose scores need more than the
        answers, the choices and the targets.
    """
    scorer = _scorer(task)
    if scorer is None or metric not in ("acc", "score", "acc_lenient", "acc_strict"):
        return None
    different, index = answers.combinations()
    try:
        scores = [
            scorer(answer, _choices(choices), target, metric == "acc_strict") for answer, target, choices in different
        ]
    except (ValueError, TypeError, LookupError):
        # choices that were not logged, or an answer of another form than the task's
        return None
    found: Floats = np.array(scores, dtype=np.float64)[index]
    return found


def _scorer(task: str) -> Scorer | None:
    if task not in our_tasks():
        return None
    folder = our_tasks()[task][1].parent.name
    if task.endswith("_ll"):
        return _losses
    if folder == "clevr":
        return _number if "_count" in task else None
    if folder == "tiny_world":
        return _tiny
    fixed = {"vsr": "vsr", "real_world": "real_world"}.get(folder)
    if folder == "real_world" and not task.startswith("vtabfact"):
        return None
    if fixed:
        return lambda answer, _, target, strict: _choice(answer, _utils(fixed).CHOICES, target, strict)
    return _choice if folder in ("blink", "cvbench", "smol", "whatsup") else None


def _choice(answer: str, choices: Sequence[str], target: str, strict: bool) -> float:
    if not choices:
        raise ValueError("no choices")
    return float(parse_choice(first_paragraph(answer), choices, strict) == target)


def _number(answer: str, _: Sequence[str], target: str, strict: bool) -> float:
    return float(parse_number(first_paragraph(answer), strict) == int(target))


def _tiny(answer: str, choices: Sequence[str], target: str, strict: bool) -> float:  # noqa: ARG001
    if not choices:
        raise ValueError("no choices")
    return float(_utils("tiny_world").parse(answer, list(choices)) == target)


def _losses(answer: str, _: Sequence[str], target: str, strict: bool) -> float:  # noqa: ARG001
    losses = [float(pair[0]) for pair in json.loads(answer)]
    right = int(target) if target.isdecimal() else LETTERS.index(target)
    return float(losses.index(min(losses)) == right)


def _choices(text: str) -> list[str]:
    return [str(choice) for choice in json.loads(text)] if text else []


@cache
def _utils(folder: str) -> Any:
    """The `utils.py` of tasks that ship."""
    spec = spec_from_file_location(f"_rescoring_{folder}", Path(tasks_dir()) / folder / "utils.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
