"""The scorers of the paper's released code (TextSteersVision, ce1c0f0), for scores that can be compared with its.

They are not what a person would say: "The answer is B" is wrong, and an empty answer to ChartQA is right.
"""

import re
import string
from collections.abc import Callable, Sequence

from lmms_steer.errors import unknown_name
from lmms_steer.scoring.answer_text import read_digits
from lmms_steer.scoring.choice import LETTERS

YEARS = range(1900, 2101)
"""A correct number that is a year must be met exactly."""
TOLERANCE = 0.05
MIN_OVERLAP = 0.8
"""Share of equal characters from which two texts are the same answer."""
MIN_SIMILARITY = 0.5
"""DocVQA: a lower edit similarity counts as 0."""
HUMANS_TO_AGREE = 3
"""VQAv2: an answer is right if so many people gave it."""


def is_right(benchmark: str, answer: str, choices: Sequence[str], gold: str, row_index: int = 0) -> float:
    """Score an answer as the released code does.

    Args:
        benchmark: `CV-Bench`, `WhatsUp`, `BLINK`, `VSR`, `VTabFact`, `CLEVR`, `Super-CLEVR`, `ChartQA`, `DocVQA` or
            `VQAv2`.
        answer: the model's answer.
        choices: the choices as the prompt shows them; for DocVQA the accepted answers, for VQAv2 those of the ten
            people.
        gold: the correct answer: a letter, a number or a text.
        row_index: the row in the data set; What'sUp's captions are rotated by it.

    Returns:
        1 or 0; a fraction in DocVQA and VQAv2.

    Raises:
        UserError: for another benchmark.
    """
    if benchmark not in _SCORERS:
        raise unknown_name("benchmark", benchmark, _SCORERS)
    return float(_SCORERS[benchmark](answer, choices, gold, row_index))


def paper_choice(answer: str, choices: Sequence[str]) -> str:
    """Read a choice: `(x)` at the beginning, a letter alone, or exactly the text of a choice.

    Args:
        answer: the model's answer.
        choices: the texts of the choices, the first being A.

    Returns:
        the letter in upper case, or the text itself if it is none of these.
    """
    text = _cut(answer)
    if len(text) > 2 and text[0] == "(" and text[2] == ")":
        return text[1].upper()
    if len(text) == 1 and text.isalpha():
        return text.upper()
    letters = (letter for letter, choice in zip(LETTERS, choices, strict=False) if choice.strip().lower() == text)
    return next(letters, text)


def paper_number(answer: str) -> int | None:
    """Read a number: the first digits anywhere, or a letter's place in the alphabet; None if there is neither.

    Of so many digits that the released code raises, nothing is read.
    """
    text = _cut(answer)
    digits = re.search(r"\d+", text)
    if digits:
        return read_digits(digits[0])
    letter = text[1] if len(text) > 2 and text[0] == "(" and text[2] == ")" else text
    return ord(letter) - ord("a") + 1 if len(letter) == 1 and letter.isalpha() else None


def _cut(answer: str) -> str:
    """Lower case, without a leading `answer:` and without one final full stop."""
    return answer.strip().lower().removeprefix("answer:").strip().removesuffix(".").strip()


def _letter(answer: str, choices: Sequence[str], gold: str, row_index: int) -> bool:  # noqa: ARG001
    return paper_choice(answer, choices) == paper_choice(gold, choices)


def _rotated_letter(answer: str, choices: Sequence[str], gold: str, row_index: int) -> bool:
    """The captions are rotated in the prompt, but not where a caption that was written out is looked up."""
    shift = -row_index % len(choices)
    return _letter(answer, [*choices[shift:], *choices[:shift]], gold, row_index)


def _letter_only(answer: str, choices: Sequence[str], gold: str, row_index: int) -> bool:
    """The texts of the choices are not known to the scorer: `yes` is never right."""
    return _letter(answer, LETTERS[: len(choices)], gold, row_index)


def _number(answer: str, choices: Sequence[str], gold: str, row_index: int) -> bool:  # noqa: ARG001
    return paper_number(answer) == paper_number(gold)


def _chart(answer: str, choices: Sequence[str], gold: str, row_index: int) -> bool:  # noqa: ARG001
    given, right = _cut(answer), _cut(gold)
    if given == right:
        return True
    numbers = [re.search(r"-?\d+(?:\.\d+)?", text) for text in (given, right)]
    if numbers[0] and numbers[1]:
        value, target = float(numbers[0][0]), float(numbers[1][0])
        if target == 0 or (target.is_integer() and int(target) in YEARS):
            return value == target
        return abs(value - target) / abs(target) <= TOLERANCE
    given, right = (text.translate(str.maketrans("", "", string.punctuation)) for text in (given, right))
    if given in right or right in given:
        return True
    shorter = min(len(given), len(right))
    return sum(a == b for a, b in zip(given, right, strict=False)) / shorter > MIN_OVERLAP


def _document(answer: str, choices: Sequence[str], gold: str, row_index: int) -> float:  # noqa: ARG001
    """ANLS: the best normalised edit similarity to an accepted answer."""
    given = _normalised(answer)
    best = max(_similarity(given, _normalised(accepted)) for accepted in choices)
    return best if best >= MIN_SIMILARITY else 0.0


def _normalised(text: str) -> str:
    return " ".join(text.lower().split()).strip(string.punctuation + " ")


def _similarity(one: str, other: str) -> float:
    longest = max(len(one), len(other))
    return 1 - _edits(one, other) / longest if longest else 1.0


def _edits(one: str, other: str) -> int:
    """The Levenshtein distance."""
    row = list(range(len(other) + 1))
    for place, character in enumerate(one, 1):
        before, row[0] = row[0], place
        for column, target in enumerate(other, 1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (character != target))
    return row[-1]


def _vqa(answer: str, choices: Sequence[str], gold: str, row_index: int) -> float:  # noqa: ARG001
    from lmms_eval.tasks._task_utils.vqa_eval_metric import EvalAIAnswerProcessor

    contractions: dict[str, str] = EvalAIAnswerProcessor.CONTRACTIONS

    def normalised(text: str) -> str:
        words = [word for word in text.lower().split() if word not in ("a", "an", "the")]
        joined = " ".join(words).translate(str.maketrans("", "", string.punctuation))
        for short, full in contractions.items():
            joined = joined.replace(short, full)
        return " ".join(joined.split())

    given = normalised(answer)
    return min(sum(normalised(human) == given for human in choices) / HUMANS_TO_AGREE, 1.0)


_SCORERS: dict[str, Callable[[str, Sequence[str], str, int], float]] = {
    "CV-Bench": _letter,
    "WhatsUp": _rotated_letter,
    "BLINK": _letter_only,
    "VSR": _letter_only,
    "VTabFact": _letter_only,
    "CLEVR": _number,
    "Super-CLEVR": _number,
    "ChartQA": _chart,
    "DocVQA": _document,
    "VQAv2": _vqa,
}
