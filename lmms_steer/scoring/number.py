"""Read the number that an answer gives."""

import re

from lmms_steer.scoring.answer_text import NUMBER_WORD, clean_answer, read_number, stated_answer, undecorated

# a hyphen after a digit is that of a range (`2-3`), another one is a sign or belongs to a word (`one-third`)
_NUMBER = re.compile(
    rf"(?<![\w.,])(?<!(?<!\d)-)(?:\d{{1,3}}(?:,\d{{3}})+|\d+(?:\.\d+)?|{NUMBER_WORD})(?![\w]|[.,]\d|-[a-z])",
    re.IGNORECASE,
)
_NOT_ONE = r"(?:any|(?:even )?(?:a single )?one|a single)\b(?: one\b)?"
# "no one" means 0, but "no more than 4" refers to 4, and "no idea" is not a number
_NONE = re.compile(
    r"^(?:none$|no (?!idea$|clue$|answer$|way$)\w+$"
    rf"|not {_NOT_ONE}$|i (?:do not|don't|cannot|can't|can not) see {_NOT_ONE}"
    rf"|there (?:are|is) (?:no\b(?: one)?|none|not {_NOT_ONE})|there (?:are|is)n't {_NOT_ONE})"
    r"(?! (?:more|fewer|less|greater) than\b)",
    re.IGNORECASE,
)
# fractions, and numbers of which only a part would be read
_FRACTION = re.compile(
    r"\d\.\d*[1-9]|(?<![\w.,])[-\u2212]\d|\d\s*/\s*\d|\band a half\b"
    rf"|(?:\d|\b{NUMBER_WORD})\s+(?:hundred|thousand|million|dozen)\b",
    re.IGNORECASE,
)
_SUM = re.compile(r"\d\s*[+×*^]\s*\d")
_TOTAL = re.compile(
    r"(?:\bin total\b|\btotal(?: number)?(?: of [\w ]+)?\s+(?:is|of|:)|\baltogether\b|=)", re.IGNORECASE
)
# not after `Total:`, nor before a sentence, where 1 is the answer
_FIRST_MARK = re.compile(
    r"(?:^|\n|(?<!(?i:total))(?<!(?i:count))(?<!(?i:number))(?<!(?i:answer)):)[\s\-*•]*"
    r"(1[.)][ \t]+(?!(?:The|There|That|This|These|It|Its|Nothing|Only|So|I)\b)(?=[^\W\d]))"
)
_MARK = re.compile(r"(?<!\S)(\d{1,3})[.)](?=\s|$)")


def parse_number(answer: str, strict: bool = False) -> int | None:
    """Return the one number of an answer, in digits or words up to 99; None for none, several, or a fraction.

    A number after `the answer is`, after the last `=` or next to `in total` takes precedence over the others.
    `There are no …` is the number 0; with another number in the answer it is one of several. The marks of a list that
    begins the answer or follows a colon (`1. a cube`) are no numbers. The strict reading takes an answer that is a
    number, or where a number and nothing else follows `the answer is`.

    Args:
        answer: the model's answer.
        strict: whether to read strictly.
    """
    text = clean_answer(answer)
    whole = read_number(text)
    if whole is not None:
        return whole
    conclusion = stated_answer(text)
    if strict:
        return None if conclusion is None else read_number(conclusion)
    if conclusion is not None:
        numbers = _numbers(conclusion)
        if len(numbers) == 1:
            return numbers.pop()
    text = clean_answer(_without_marks(undecorated(answer)))
    none = _NONE.match(text)
    numbers = _numbers(text[none.end() :] if none else text)
    if none and not _FRACTION.search(text):
        numbers.add(0)
    if len(numbers) == 1 and not _SUM.search(text):
        return numbers.pop()
    return _total(text) if numbers else None


def _without_marks(text: str) -> str:
    """Remove the marks `1.`, `2.`, … of a list, as far as they count on."""
    first, expected = _FIRST_MARK.search(text), 1
    if first is None:
        return text

    def removed(mark: re.Match[str]) -> str:
        nonlocal expected
        is_next = int(mark[1]) == expected
        expected += is_next
        return "" if is_next else mark[0]

    return text[: first.start(1)] + _MARK.sub(removed, text[first.start(1) :])


def _total(text: str) -> int | None:
    """Return the number after the last `=` or `total`, else the one before it."""
    marks = list(_TOTAL.finditer(text))
    if not marks:
        return None
    after = re.split(r"[.!?;](?:\s|$)", text[marks[-1].end() :], maxsplit=1)[0]
    sides = [set() if _SUM.search(after) else _numbers(after), set(_ordered(text[: marks[-1].start()])[-1:])]
    for numbers in sides:
        if len(numbers) == 1:
            return numbers.pop()
    return None


def _ordered(text: str) -> list[int]:
    """Return the numbers in their order."""
    values = (read_number(match) for match in _NUMBER.findall(text))
    return [value for value in values if value is not None]


def _numbers(text: str) -> set[int]:
    """Return the different numbers; none for a text with a fraction."""
    if _FRACTION.search(text):
        return set()
    return set(_ordered(text))
