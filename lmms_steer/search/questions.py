"""The questions of an lmms-eval task: prompts, possible answers, and which questions share an image."""

import hashlib
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from lmms_steer._util.hashing import question_id, stable_hash
from lmms_steer.errors import UserError
from lmms_steer.models.visuals import Visual, image_ids, prepare_visuals
from lmms_steer.scoring.choice import LETTERS, choices_of
from lmms_steer.search.lmms_eval_task import prompt_of
from lmms_steer.statistics import Ints
from lmms_steer.statistics.clustered import cluster_ids

SAMPLED = 16
"""How many questions' ids a choice carries."""
NUMBERS = 21
"""A whole number below this is one of a fixed set of answers, 0 to 20."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        doc_id: its number in the task.
        text, visuals: the prompt.
        answers: the possible answers; empty where any text can be an answer.
        right: the place of the correct answer among them.
        doc: the task's document.
        requests: what lm-eval asks the model about this question; empty in lmms-eval.
        logged: by what the harness's log identifies the prompt, if not by its text.
        target: the task's right answer, where any text can be one.
        image: a hash of the visuals; 0 without any.
    """

    doc_id: int
    text: str
    visuals: list[Visual]
    answers: tuple[str, ...]
    right: int
    doc: Any
    requests: tuple[Any, ...] = ()
    logged: str | None = None
    target: str = ""
    image: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", stable_hash(image_ids(self.visuals)) if self.visuals else 0)


@dataclass(frozen=True)
class PreparedBatch:
    """A batch of questions as a model takes it, with what scores it.

    Attributes:
        inputs: of the model.
        scorer: a `LetterScorer`, or another object with its methods.
        scored: how many of each row's last positions are an answer's to be scored, int [rows]; None without answers.
        question_of: the question of each row, as a place in the batch, int [rows].
    """

    inputs: dict[str, Any]
    scorer: Any
    scored: Any = None
    question_of: Any = None


class OtherTask(ABC):
    """A task of another harness than lmms-eval, as a search needs it.

    Attributes:
        config: with lmms-eval's attributes `task` and `output_type`.
    """

    config: Any

    @abstractmethod
    def questions(self, limit: int | None, require_answer_set: bool) -> Iterator[Question]:
        """Read the task's questions; arguments as for `load_questions`."""

    @abstractmethod
    def prepare(self, lm: Any, batch: Sequence[Question]) -> PreparedBatch:
        """Make a batch of some of its questions for a model of its harness."""

    @abstractmethod
    def score(self, question: Question, responses: Sequence[Any]) -> float:
        """The score of one of its questions, from 0 to 1.

        Args:
            question: the question.
            responses: one for each of the question's requests.
        """


def load_questions(task: Any, limit: int | None, require_answer_set: bool = True) -> Iterator[Question]:
    """Read a task's questions, with the prompts that an evaluation gives the model.

    Args:
        task: an lmms-eval task, from `harness.tasks.load_task`, or a task of another harness.
        limit: read the first questions only; None reads all.
        require_answer_set: whether every question must have a fixed set of answers.

    Raises:
        UserError: for a question without a fixed set of answers, where it must have one; for a task of lmms-eval also
            for examples in its prompts, or several prompts for a question.
    """
    if isinstance(task, OtherTask):
        yield from task.questions(limit, require_answer_set)
        return
    docs = task.test_docs() if task.has_test_docs() else task.validation_docs()
    name = task.config.task
    for number in range(min(len(docs), limit or len(docs))):
        doc = docs[number]
        text = prompt_of(task, doc, number)
        visuals = prepare_visuals(task.doc_to_visual(doc), f"{name}, document {number}")
        target = task.doc_to_target(doc)
        if getattr(task.config, "output_type", "") == "multiple_choice" and isinstance(target, int):
            # the target is a place among the choices, not a number that is the answer
            choices = tuple(map(str, task.doc_to_choice(doc)))
            answers, right = choices, target if 0 <= target < len(choices) else None
        else:
            answers, right = _fixed_answers(doc, text, target)
        if right is None and require_answer_set:
            raise UserError(
                f"{name}, document {number}: the answer {target!r} is not a letter, a number or one of the choices:"
                " use --score generate, so that the model generates text and the task scores it"
            )
        if right is None:
            yield Question(number, text, visuals, (), 0, doc, target=str(target))
        else:
            yield Question(number, text, visuals, answers, right, doc)


def questions_sha256(questions: Sequence[Question]) -> str:
    """Hash of the questions with their images and answers, in their order."""
    digest = hashlib.sha256()
    for question in questions:
        known = (question.doc_id, question.text, question.answers, question.right)
        digest.update(repr((*known, question.target) if question.target else known).encode())
        for visual in question.visuals:
            images = visual if isinstance(visual, list) else [visual]
            for image in images:
                own = image.tobytes() if isinstance(image, Image.Image) else image_ids([image])[0].encode()
                digest.update(own)
    return digest.hexdigest()


def sample_ids(questions: Sequence[Question]) -> str:
    """Ids of 16 of the questions, independent of their order, by which a leaderboard recognises what was chosen on."""
    ids = (question_id(stable_hash(question.logged or question.text), question.image) for question in questions)
    return " ".join(sorted(ids)[:SAMPLED])


def image_clusters(questions: Sequence[Question]) -> Ints | None:
    """The image of each question, numbered from 0; None where no two questions share one.

    A question without an image stands alone.
    """
    names = [str(question.image or f"question {place}") for place, question in enumerate(questions)]
    return cluster_ids(np.unique(names, return_inverse=True)[1])


def shuffle_by_image(questions: Sequence[Question], seed: int) -> list[Question]:
    """A random order in which questions that share an image follow one another.

    Strategies look at the first questions first; the later questions should then show other images.

    Args:
        questions: in the task's order.
        seed: seed of the order.
    """
    image_of = image_clusters(questions)
    if image_of is not None and not image_of.any():
        image_of = None  # all are about one image: nothing is to be kept together
    groups: dict[int, list[Question]] = {}
    for place, question in enumerate(questions):
        groups.setdefault(place if image_of is None else int(image_of[place]), []).append(question)
    shuffled = list(groups.values())
    random.Random(seed).shuffle(shuffled)
    return [question for group in shuffled for question in group]


def _fixed_answers(doc: Any, text: str, target: Any) -> tuple[tuple[str, ...], int | None]:
    """The fixed set of answers that a target belongs to, and its place in it; None where there is no such set."""
    choices = choices_of(doc)
    answer = str(target).strip().strip("()")
    if choices and answer in LETTERS and len(answer) == 1:
        # a prompt that lists lettered choices asks for a letter, any other for the choice itself
        lettered = re.search(r"\(A\)|\bA[.:)]", text) is not None
        answers = tuple(LETTERS[: len(choices)]) if lettered else tuple(choices)
        place = LETTERS.index(answer)
        return answers, place if place < len(answers) else None
    if answer.isdecimal() and int(answer) < NUMBERS:
        return tuple(map(str, range(NUMBERS))), int(answer)
    if answer.lower() in ("yes", "no"):
        return ("yes", "no"), ("yes", "no").index(answer.lower())
    return (), None
