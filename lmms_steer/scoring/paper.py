"""The scorers of the paper's released code, for numbers that can be compared with the paper's."""

import re
from collections.abc import Sequence

from lmms_steer.scoring.choice import LETTERS


def paper_choice(answer: str, choices: Sequence[str]) -> str:
    """Read a choice as the paper's code does: in lower case, without `answer:` and a final full stop.

    The answer must then be a letter, `(x)`, or exactly the text of a choice.

    Args:
        answer: the model's answer.
        choices: the texts of the choices, the first being A.

    Returns:
        The letter; "" if no choice could be read.
    """
    text = answer.strip().lower().replace("answer:", "").strip().removesuffix(".").strip()
    bracketed = re.fullmatch(r"\(([a-z])\)", text)
    if bracketed:
        text = bracketed[1]
    if re.fullmatch(r"[a-z]", text):
        return text.upper()
    for letter, choice in zip(LETTERS, choices, strict=False):
        if choice.strip().lower() == text:
            return letter
    return ""


def paper_number(answer: str) -> int | None:
    """Read a number as the paper's code does: the first run of digits, else a single letter's index in the alphabet."""
    digits = re.search(r"\d+", answer)
    if digits:
        return int(digits[0])
    letter = re.fullmatch(r"\(?([a-z])\)?\.?", answer.strip().lower())
    return ord(letter[1]) - ord("a") if letter else None
