"""Helpers for reading answers: remove decoration, find the stated conclusion, and read number words."""

import re

UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
WORDS = {word: number for number, word in enumerate(UNITS)} | {word: 10 * (i + 2) for i, word in enumerate(TENS)}
NUMBER_WORD = (
    rf"(?:(?:{'|'.join(TENS)})(?:[- ](?:{'|'.join(UNITS[1:10])}))?|{'|'.join(sorted(UNITS, key=len, reverse=True))})"
)

_OPENING, _CLOSING = (re.compile(tag, re.IGNORECASE) for tag in ("<answer>", "</answer>"))
_FONT = re.compile(r"\\(?:text(?:bf)?|math(?:rm|bf))\s*\{([^{}]*)\}")
_BOXED = re.compile(r"\\boxed\s*\{([^{}]*)\}")
_CONCLUSION = re.compile(
    r"\b(?:final answer|correct answer|right answer|best answer|answer|correct option|correct choice|option|choice)\b"
    r"(?:\s+(?:is|would be|should be|must be))?\s*[:=]?\s*",
    re.IGNORECASE,
)


def undecorated(answer: str) -> str:
    """Remove `<answer>` tags, `\\boxed{}`, asterisks, and the space around the answer; the last of several is taken."""
    ends = [tag.start() for tag in _CLOSING.finditer(answer)]
    starts = [tag.end() for tag in _OPENING.finditer(answer) if ends and tag.end() <= ends[-1]]
    if starts:
        answer = answer[starts[-1] : ends[-1]]
    boxed = _BOXED.findall(_FONT.sub(r"\1", answer))
    return re.sub(r"\*\*|__|`", "", boxed[-1] if boxed else answer).strip()


def clean_answer(answer: str) -> str:
    """Remove decoration (`undecorated`), quotes, repeated spaces and line breaks, and a final full stop."""
    answer = re.sub(r"\s+", " ", undecorated(answer))
    return answer.strip("\"'“”‘’ ").rstrip(".").rstrip("\"'“”‘’ ")


def stated_answer(answer: str) -> str | None:
    """Return what follows the last `the answer is`, up to the end of the sentence; None if nothing is stated."""
    for match in reversed(list(_CONCLUSION.finditer(answer))):
        rest = re.split(r"[.!?;](?:\s|$)|\n", answer[match.end() :], maxsplit=1)[0].strip()
        if rest:
            return clean_answer(rest)
    return None


def read_digits(digits: str) -> int | None:
    """Convert digits; None for more than Python converts (4300), of a model that repeats them until it is stopped."""
    try:
        return int(digits)
    except ValueError:
        return None


def read_number(text: str) -> int | None:
    """Read a text that is a number (`3`, `3.0`, `1,000`, `three`, `twenty-one`); None for anything else.

    Also for one that `read_digits` does not read.
    """
    text = text.strip().lower()
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+|\d+", text):
        return read_digits(text.replace(",", ""))
    if re.fullmatch(r"\d+\.0+", text):
        return read_digits(text.split(".")[0])
    if re.fullmatch(NUMBER_WORD, text):
        return sum(WORDS[part] for part in re.split(r"[- ]", text))
    return None
