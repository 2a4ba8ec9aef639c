"""Choose the questions for the page, those on which systems differ first, and read their answers."""

import json
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lmms_steer._util.json import parse_json
from lmms_steer.comparison.page_images import ImageQuery, task_images
from lmms_steer.comparison.samples import Samples, logged_prompt
from lmms_steer.comparison.systems import System
from lmms_steer.comparison.yes_no import answer_text
from lmms_steer.scoring.choice import choice_text, choices_of
from lmms_steer.statistics import Floats, Ints

MAX_TEXT = 600
"""The largest number of characters of a question or an answer on the page."""
MAX_ANSWERS = 60_000
"""The largest number of answers on the page, so that it opens at once: with many systems or tasks, fewer questions."""
MIN_QUESTIONS = 4
"""Questions of a task that are shown however many answers there are."""
MAX_IMAGE_CHARACTERS = 6_000_000
"""The largest number of characters of all images on the page."""


class PageAnswer(NamedTuple):
    """An answer on the page; written as a JSON array.

    Attributes:
        text: the answer.
        score: its score; None if it has none.
        unparsed: 1 if no answer could be read, else 0.
        paper: its score by the paper's scorer where that is another one, else None.
    """

    text: str
    score: float | None
    unparsed: int
    paper: float | None


@dataclass(frozen=True)
class PageQuestion:
    """A question on the page, with the answers of all systems.

    Attributes:
        doc_id: the harness's number of the document.
        target: the correct answer, as it was logged.
        meaning: the text of the correct choice, if the target is its letter; else "".
        question: the prompt, cut to a readable length.
        answers: the different answers.
        by: for each system of the task, the index of its answer; -1 if it was not asked.
        image: the first image, as a data URI; "" if the page has none.
    """

    doc_id: int
    target: str
    meaning: str
    question: str
    answers: tuple[PageAnswer, ...]
    by: tuple[int, ...]
    image: str


@dataclass(frozen=True)
class PageTask:
    """A task on the page.

    Attributes:
        task: its name.
        n: the number of its questions, on the page or not.
        direction: 1 if a higher score is better, else -1.
        graded: whether an answer's score says more than right (1) or wrong (0).
        no_images: why some questions have no image; "" if all have one.
        systems: names of the systems.
        refused: names of those that are not compared with the baseline here, and whose answers are left out.
        questions: those on the page.
    """

    task: str
    n: int
    direction: int
    graded: bool
    no_images: str
    systems: tuple[str, ...]
    refused: tuple[str, ...]
    questions: tuple[PageQuestion, ...]


@dataclass(frozen=True)
class _BaseQuestion:
    """A question as the baseline's log has it, without answers; see `PageQuestion`."""

    query: ImageQuery
    meaning: str
    prompt: str


def page_tasks(
    systems: dict[str, System],
    most: int,
    pictures: str,
    include_path: Path | None = None,
    refused: Collection[tuple[str, str]] = (),
) -> Iterator[PageTask]:
    """Collect the tasks that the baseline has.

    Args:
        systems: name ▸ system, the baseline first.
        most: the largest number of questions of a task.
        pictures: which tasks' images to look up: ours, all or none.
        include_path: a folder of the user's own tasks, for their images.
        refused: system and task of runs that are not compared: they may have been asked other questions.
    """
    baseline = next(iter(systems.values()))
    runs_in_all = sum(len(system.tasks) for system in systems.values())
    count = max(MIN_QUESTIONS, min(most, MAX_ANSWERS // max(runs_in_all, 1)))
    for task, base in baseline.tasks.items():
        runs = {system.name: system.tasks[task] for system in systems.values() if task in system.tasks}
        not_compared = [name for name in runs if (name, task) in refused]
        for name in not_compared:
            del runs[name]
        chosen = _choose_questions(base, list(runs.values()), count)
        questions = list(_base_questions(base, chosen))
        images: dict[int, str] = {}
        no_images = "left out"
        if pictures != "none":
            queries = [question.query for question in questions]
            budget = MAX_IMAGE_CHARACTERS // len(baseline.tasks)
            images, no_images = task_images(task, queries, budget, pictures == "all", include_path)
        yield PageTask(
            task=task,
            n=len(base.keys),
            direction=base.direction,
            graded=base.direction < 0 or any(map(_has_grades, runs.values())),
            no_images=no_images,
            systems=tuple(runs),
            refused=tuple(not_compared),
            questions=tuple(_with_answers(questions, runs.values(), base.keys[chosen], images)),
        )


def _has_grades(run: Samples) -> bool:
    """Whether some question has another score than 0, 1 and none."""
    return not bool(np.isin(run.scores[~np.isnan(run.scores)], (0, 1)).all())


def _choose_questions(base: Samples, runs: list[Samples], count: int) -> Ints:
    """Return indices into `base`: half the most often fixed, half the most often broken, then others in their order."""
    fixed = np.zeros(len(base.keys))
    broken = np.zeros(len(base.keys))
    for run in runs:
        if np.array_equal(run.keys, base.keys):
            change = np.nan_to_num(run.scores - base.scores) * base.direction
            fixed += change > 0
            broken += change < 0
    by_fixed, by_broken = (_most_often_first(times, base.doc_ids) for times in (fixed, broken))
    half = count // 2
    candidates = np.concatenate(
        [
            by_fixed[: max(half, count - len(by_broken))],
            by_broken[: max(half, count - len(by_fixed))],
            np.argsort(base.doc_ids),
        ]
    )
    chosen: Ints = candidates[np.sort(np.unique(candidates, return_index=True)[1])][:count]
    return chosen


def _most_often_first(times: Floats, doc_ids: Ints) -> Ints:
    """Rank the questions with at least one occurrence, the most first; of equals the lowest document first."""
    ranked: Ints = np.lexsort((doc_ids, -times))
    return ranked[times[ranked] > 0]


def _base_questions(base: Samples, chosen: Ints) -> Iterator[_BaseQuestion]:
    for doc_id, sample in zip(base.doc_ids[chosen].tolist(), _read_logged(base, base.keys[chosen]), strict=True):
        assert sample is not None, "the baseline has its own documents"
        target, prompt = str(sample["target"]), logged_prompt(sample)
        # our plugin logs the choices, lm-eval the whole document
        doc = sample.get("doc")
        choices = choices_of(sample) or choices_of(doc if isinstance(doc, dict) else {})
        query = ImageQuery(doc_id, target, prompt, sample.get("images"))
        yield _BaseQuestion(query, _cut(choice_text(target, choices)), _cut(prompt))


def _with_answers(
    questions: list[_BaseQuestion], runs: Iterable[Samples], keys: Ints, images: dict[int, str]
) -> Iterator[PageQuestion]:
    answers: list[list[PageAnswer]] = [[] for _ in questions]
    by: list[list[int]] = [[] for _ in questions]
    for run in runs:
        scores = dict(zip(run.keys.tolist(), run.scores.tolist(), strict=True))
        by_paper = dict(zip(run.keys.tolist(), run.readings.get("paper", np.array([])).tolist(), strict=False))
        for i, (key, sample) in enumerate(zip(keys.tolist(), _read_logged(run, keys), strict=True)):
            if sample is None:
                by[i].append(-1)
                continue
            score, paper = _rounded(scores[key]), by_paper.get(key, math.nan)
            by_paper_differs = not math.isnan(paper) and paper != scores[key]
            unparsed = int(bool(sample.get("unparsed")))
            answer = PageAnswer(_cut(_answer(sample)), score, unparsed, _rounded(paper) if by_paper_differs else None)
            if answer not in answers[i]:
                answers[i].append(answer)
            by[i].append(answers[i].index(answer))
    for i, question in enumerate(questions):
        query = question.query
        image = images.get(query.doc_id, "")
        yield PageQuestion(
            query.doc_id, query.target, question.meaning, question.prompt, tuple(answers[i]), tuple(by[i]), image
        )


def _read_logged(run: Samples, keys: Ints) -> Iterator[dict[str, Any] | None]:
    """Read the samples of some documents, one at a time; None for a document that the run does not have."""
    offsets = dict(zip(run.keys.tolist(), run.offsets.tolist(), strict=True))
    with run.path.open("rb") as file:
        for key in keys.tolist():
            if key not in offsets:
                yield None
                continue
            file.seek(offsets[key])
            yield parse_json(file.readline())


def _answer(sample: dict[str, Any]) -> Any:
    answer = answer_text(sample)
    # of log-likelihoods the choice says more than the numbers
    return sample["parsed"] if isinstance(answer, list) and "parsed" in sample else answer


def _rounded(score: float) -> float | None:
    return None if math.isnan(score) else round(score, 4)


def _cut(text: Any) -> str:
    text = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} … ({len(text):,} characters, cut)"
