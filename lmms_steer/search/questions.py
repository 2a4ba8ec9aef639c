"""A task of lmms-eval as questions: what is asked, what may be answered, and how an answer is scored.

Questions that are no evidence of their own: those that share an image, and those that another task asks too.

Before a search that is to be confirmed: whether the other task can be scored alike, and asks other questions.
"""

import hashlib
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lmms_steer._util.hashing import question_id, stable_hash
from lmms_steer.errors import UserError
from lmms_steer.models.visuals import Visual, image_ids, prepare_visuals
from lmms_steer.scoring.choice import choices_of
from lmms_steer.search.options import MIN_QUESTIONS
from lmms_steer.statistics.clustered import cluster_ids
from lmms_steer.statistics.paired import Ints

LETTERS = "ABCDEFGHIJ"
SOME = 16
NUMBERS = 21


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        doc_id: its number in the task.
        text, visuals: as the model is asked.
        answers: what it may say; empty where any text is an answer.
        right: the place of the right answer among them.
        doc: the task's document.
        image: a hash of what is shown; 0 where nothing is.
    """

    doc_id: int
    text: str
    visuals: list[Visual]
    answers: tuple[str, ...]
    right: int
    doc: Any
    image: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", stable_hash(image_ids(self.visuals)) if self.visuals else 0)


def load_questions(task: Any, limit: int | None, fixed: bool = True) -> Iterator[Question]:
    """The task's questions.

    Args:
        task: of `load`.
        limit: the first so many.
        fixed: whether answers must be of a fixed set.

    Raises:
        UserError: for a question whose answer is none of a fixed set, where it must be.
    """
    docs = task.test_docs() if task.has_test_docs() else task.validation_docs()
    name = task.config.task
    for number in range(min(len(docs), limit or len(docs))):
        doc = docs[number]
        text = str(task.doc_to_text(doc))
        visuals = prepare_visuals(task.doc_to_visual(doc), f"{name}, document {number}")
        target = task.doc_to_target(doc)
        if getattr(task.config, "output_type", "") == "multiple_choice" and isinstance(target, int):
            # a place among the choices, not a number that is the answer
            listed = tuple(map(str, task.doc_to_choice(doc)))
            answers, right = listed, target if 0 <= target < len(listed) else None
        else:
            answers, right = _answers(doc, text, target)
        if right is None and fixed:
            raise UserError(
                f"{name}, document {number}: the answer {target!r} is no letter, number or choice:"
                " take --score generate, which lets the model write and the task score"
            )
        yield Question(number, text, visuals, answers if right is not None else (), right or 0, doc)


def questions_sha256(asked: Sequence[Question]) -> str:
    """Of what is asked, pictures included, and of the answers; in their order."""
    found = hashlib.sha256()
    for question in asked:
        found.update(repr((question.doc_id, question.text, question.answers, question.right)).encode())
        for visual in question.visuals:
            pictures = visual if isinstance(visual, list) else [visual]
            for picture in pictures:
                found.update(picture.encode() if isinstance(picture, str) else picture.tobytes())
    return found.hexdigest()


def sample_ids(asked: Sequence[Question]) -> str:
    """Hashes of sixteen of the questions, in whatever order they come; a board knows by them what was chosen on."""
    return " ".join(sorted(question_id(stable_hash(one.text), one.image) for one in asked)[:SOME])


def _answers(doc: Any, text: str, target: Any) -> tuple[tuple[str, ...], int | None]:
    choices = choices_of(doc)
    said = str(target).strip().strip("()")
    if choices and said in LETTERS and len(said) == 1:
        # a prompt that lists lettered choices wants a letter, any other the choice itself
        words = tuple(LETTERS[: len(choices)]) if re.search(r"\(A\)|\bA[.:)]", text) else tuple(choices)
        place = LETTERS.index(said)
        return words, place if place < len(words) else None
    if said.isdecimal() and int(said) < NUMBERS:
        return tuple(map(str, range(NUMBERS))), int(said)
    if said.lower() in ("yes", "no"):
        return ("yes", "no"), ("yes", "no").index(said.lower())
    return (), None


def image_clusters(asked: Sequence[Question]) -> Ints | None:
    """The image of each question, 0 …; None where no two share one. A question that shows nothing stands alone."""
    # as on a board, what all are shown tells none of them apart
    if len({one.image for one in asked}) < 2:
        return None
    own = [str(one.image) if one.image else f"question {place}" for place, one in enumerate(asked)]
    return cluster_ids(np.unique(own, return_inverse=True)[1])


def shuffle_by_image(asked: Sequence[Question], seed: int) -> list[Question]:
    """In an order drawn by lot, those that share an image one after another.

    A strategy looks at the first questions first; what it then sees of the others is to be of other images.
    """
    images = image_clusters(asked)
    together: dict[int, list[Question]] = {}
    for place, question in enumerate(asked):
        together.setdefault(place if images is None else int(images[place]), []).append(question)
    drawn = list(together.values())
    random.Random(seed).shuffle(drawn)
    return [question for group in drawn for question in group]


def question_ids(question: Question) -> set[str]:
    """What knows a question again in another task: its images with its prompt, and with what its document says.

    Another prompt leaves the document as it is; another file of the same questions may number its documents otherwise.
    """
    return {question_id(stable_hash(told), question.image) for told in (question.text, _plain(question.doc))}


def _plain(value: Any) -> Any:
    """What of a document can be written down: no pictures."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, str | int | float) else None


def check_confirmation_task(task: Any, asked: Sequence[Question], score: str) -> list[Question]:
    """
    Args:
        task: of lmms-eval, to confirm a choice on.
        asked: the questions that the choice is made on.
        score: letters or generate.

    Returns:
        a question, without what it shows, of each set of answers: what a model may be unable to tell apart.

    Raises:
        UserError: for a task that cannot be scored so, has too few questions, or asks some of those.
    """
    name = str(task.config.task)
    if score == "generate" and task.config.output_type != "generate_until":
        raise UserError(
            f"--confirm {name} is {task.config.output_type}: this search lets the model write: confirm it on a task of"
            " generate_until"
        )
    known = {one for question in asked for one in question_ids(question)}
    count, shared, sets = 0, 0, dict[tuple[str, ...], Question]()
    for question in load_questions(task, None, fixed=score == "letters"):
        count += 1
        shared += not known.isdisjoint(question_ids(question))
        sets.setdefault(question.answers, replace(question, visuals=[], doc=None))
    if shared:
        raise UserError(
            f"--confirm {name}: {shared} of its {count} questions are among those that the choice is made on: confirm"
            " it on others"
        )
    if count < MIN_QUESTIONS:
        raise UserError(f"--confirm {name} has {count} questions: {MIN_QUESTIONS} at least are needed")
    return list(sets.values())
