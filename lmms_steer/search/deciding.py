"""Which token of an answer decides between a question's choices: the letter of `(A)`, not the bracket before it.

A model that writes every answer as `(A)` is sure of the bracket whatever it thinks of the question, so neither the
damage nor the answer can be read there.
"""

import os
import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lmms_steer.models.answer_bias import LOOKED_AT
from lmms_steer.search.questions import Question


def deciding_places(tokenizer: Any, questions: Sequence[Question], ids: Tensor) -> list[int]:
    """The place of the token that decides in each answer.

    Args:
        tokenizer: decodes the answers.
        questions: whose answers they are.
        ids: what the unsteered model writes, [questions, tokens].

    Returns:
        the place of the first token in which the answer to another choice would be another one: of the letter in
        `(A)` or `The answer is A`. 0 where the question has no fixed set of choices, or the answer begins with none.
    """
    return [_place(tokenizer, question, row) for question, row in zip(questions, ids.tolist(), strict=True)]


def _place(tokenizer: Any, question: Question, row: list[int]) -> int:
    texts = [tokenizer.decode(row[: n + 1], skip_special_tokens=True) for n in range(min(len(row), LOOKED_AT))]
    start = _start_of_choice(question.answers, texts[-1])
    return next((n for n, text in enumerate(texts) if len(text) > start), 0)


def _start_of_choice(choices: Sequence[str], text: str) -> int:
    """Where a text first names one of the choices, behind what all choices begin with; 0 where it names none."""
    if not choices:
        return 0
    # "a" is a word, and "A" a choice
    flags = re.NOFLAG if all(len(choice) == 1 for choice in choices) else re.IGNORECASE
    found = re.search(rf"(?<!\w)(?:{'|'.join(map(re.escape, choices))})(?!\w)", text, flags)
    return found.start() + len(os.path.commonprefix(list(choices))) if found else 0
