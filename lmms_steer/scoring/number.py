"""Which number an answer gives."""

import re

from lmms_steer.scoring.answer_text import NUMBER_WORD, clean_answer, read_number, stated_answer

_NUMBER = re.compile(
    rf"(?<![\w.,-])(?:\d{{1,3}}(?:,\d{{3}})+|\d+(?:\.\d+)?|{NUMBER_WORD})(?![\w]|[.,]\d)", re.IGNORECASE
)
# "no more than 4" is about 4, "no one" about none, "no idea" about nothing
_NONE = re.compile(
    r"^(?:none$|no (?!idea$|clue$|answer$|way$)\w+$"
    r"|there (?:are|is) (?:no(?: one)?|none|not (?:any|a single|one))\b(?! (?:more|fewer|less|greater) than\b))",
    re.IGNORECASE,
)
_FRACTION = re.compile(r"\d\.\d*[1-9]|(?<![\w.,])-\d|\d\s*/\s*\d")
_TOTAL = re.compile(
    r"(?:\bin total\b|\btotal(?: number)?(?: of [\w ]+)?\s+(?:is|of|:)|\baltogether\b|=)", re.IGNORECASE
)


def parse_number(answer: str) -> int | None:
    """The one number of an answer, in digits or words; None where it gives none, several, or a fraction.

    What follows `the answer is`, the last `=` or stands beside `in total` counts before the rest.
    `There are no …` is 0, and beside another number one of several.
    """
    text = clean_answer(answer)
    whole = read_number(text)
    if whole is not None:
        return whole
    conclusion = stated_answer(text)
    if conclusion is not None:
        found = _numbers(conclusion)
        if len(found) == 1:
            return found.pop()
    none = _NONE.match(text)
    found = _numbers(text[none.end() :] if none else text)
    if none and not _FRACTION.search(text):
        found.add(0)
    if len(found) == 1:
        return found.pop()
    return _total(text) if found else None


def _total(text: str) -> int | None:
    """The number beside the last word that says that a sum follows, or stands before it."""
    marks = list(_TOTAL.finditer(text))
    if not marks:
        return None
    after = re.split(r"[.!?;](?:\s|$)", text[marks[-1].end() :], maxsplit=1)[0]
    sides = [_numbers(after), set(_ordered(text[: marks[-1].start()])[-1:])]
    for numbers in sides:
        if len(numbers) == 1:
            return numbers.pop()
    return None


def _ordered(text: str) -> list[int]:
    values = (read_number(match) for match in _NUMBER.findall(text))
    return [value for value in values if value is not None]


def _numbers(text: str) -> set[int]:
    if _FRACTION.search(text):
        return set()
    return set(_ordered(text))
