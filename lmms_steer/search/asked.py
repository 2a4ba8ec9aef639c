"""A task of lmms-eval as questions: what is asked, what may be answered, and how an answer is scored."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmms_steer.errors import UserError
from lmms_steer.models.image_ids import image_ids
from lmms_steer.models.visuals import visuals_of
from lmms_steer.prompts import Visual
from lmms_steer.question_hash import hash_of, question_hash
from lmms_steer.scoring.choice import choices_of

LETTERS = "ABCDEFGHIJ"
SOME = 16
NUMBERS = 21


@dataclass(frozen=True, slots=True)
class Asked:
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
        object.__setattr__(self, "image", hash_of(image_ids(self.visuals)) if self.visuals else 0)


def questions(task: Any, limit: int | None, fixed: bool = True) -> Iterator[Asked]:
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
        visuals = visuals_of(task.doc_to_visual(doc), f"{name}, document {number}")
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
        yield Asked(number, text, visuals, answers if right is not None else (), right or 0, doc)


def sha256(asked: Sequence[Asked]) -> str:
    """Of what is asked, pictures included, and of the answers; in their order."""
    found = hashlib.sha256()
    for question in asked:
        found.update(repr((question.doc_id, question.text, question.answers, question.right)).encode())
        for visual in question.visuals:
            pictures = visual if isinstance(visual, list) else [visual]
            for picture in pictures:
                found.update(picture.encode() if isinstance(picture, str) else picture.tobytes())
    return found.hexdigest()


def some(asked: Sequence[Asked]) -> str:
    """Hashes of sixteen of the questions, in whatever order they come; a board knows by them what was chosen on."""
    return " ".join(sorted(question_hash(hash_of(one.text), one.image) for one in asked)[:SOME])


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
