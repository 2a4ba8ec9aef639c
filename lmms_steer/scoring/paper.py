"""The scorers of the paper's released code, by their rules, for numbers that can stand beside the paper's."""

import re
from collections.abc import Sequence

from lmms_steer.scoring.choice import LETTERS


def paper_choice(answer: str, choices: Sequence[str]) -> str:
    """Lower case, without `answer:` and a final full stop; `(x)` is x; a bare letter; a choice's exact text."""
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
    """The first run of digits; else a bare letter's place in the alphabet, from 0."""
    digits = re.search(r"\d+", answer)
    if digits:
        return int(digits[0])
    letter = re.fullmatch(r"\(?([a-z])\)?\.?", answer.strip().lower())
    return ord(letter[1]) - ord("a") if letter else None
