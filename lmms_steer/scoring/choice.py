"""Which of the choices an answer names, by its letter or its text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lmms_steer.scoring.answer_text import clean_answer, read_number, stated_answer

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER_FIRST = re.compile(r"^[(\[]?([A-Za-z])[)\].:,\-]+\s*(.*)$", re.DOTALL)
_BARE = re.compile(r"^[(\[]?([A-Za-z])[)\]]?[.:,]?$")


def parse_choice(answer: str, choices: Sequence[str]) -> str:
    """The letter of the one choice that the answer names; "" where it names none, or more than one.

    In this order: a letter alone (`C`, `(c)`, `C.`); a choice's own text; a letter with something behind it (`B) 3`),
    but for another choice's text; the same in what follows `the answer is`; the only letter in parentheses; the only
    choice whose text occurs; the only capital letter that stands alone (`A` only at the end, as it is also a word).

    Args:
        answer: what the model said.
        choices: the choices' texts, the first being A.
    """
    letters = LETTERS[: len(choices)]
    text = clean_answer(answer)
    named = _direct(text, choices, letters)
    if named is not None:
        return named
    conclusion = stated_answer(text)
    if conclusion is not None:
        named = _direct(conclusion, choices, letters)
        if named is None:
            named = _with_reason(conclusion, letters) or _inside(conclusion, choices, letters)
        if named:
            return named
    return _inside(text, choices, letters)


def choices_of(doc: Mapping[str, Any]) -> list[str]:
    """The texts of a document's choices, the first being A, from the columns that our benchmarks have; else none."""
    found = next((doc[key] for key in ("choices", "captions") if doc.get(key)), None)
    return [str(choice) for choice in found] if isinstance(found, list | tuple) else []


def choice_text(letter: str, choices: Sequence[str]) -> str:
    """What a letter stands for (`B` or `(B)`); "" where it names no choice, or a choice that is a letter itself."""
    bare = letter.strip().strip("()")
    place = LETTERS.find(bare) if len(bare) == 1 else -1
    text = choices[place] if 0 <= place < len(choices) else ""
    return "" if re.fullmatch(r"\(?[A-Z]\)?", text) else text


def _direct(text: str, choices: Sequence[str], letters: str) -> str | None:
    """The whole text is a letter, a choice, or a letter and its choice; "" for a letter and another's choice."""
    bare = _BARE.match(text)
    if bare and bare[1].upper() in letters:
        return bare[1].upper()
    alike = _same_text(text, choices, letters)
    if alike:
        return alike
    first = _LETTER_FIRST.match(text)
    if first and first[1].upper() in letters and not _bracketed(first[2], letters) - {first[1].upper()}:
        other = _same_text(clean_answer(first[2]), choices, letters)
        return "" if other and other != first[1].upper() else first[1].upper()
    return None


def _with_reason(conclusion: str, letters: str) -> str:
    """`B because …`; `A` needs the reason's first word, as it is also a word."""
    first = re.match(r"([A-Z])(?=,|\s)(?:,|\s+(?:because|since|as|for|and)\b)?", conclusion)
    if first is None or first[1] not in letters or (first[1] == "A" and first[0] == "A"):
        return ""
    return first[1]


def _bracketed(text: str, letters: str) -> set[str]:
    return {letter.upper() for letter in re.findall(r"[(\[]([A-Za-z])[)\]]", text)} & set(letters)


def _inside(text: str, choices: Sequence[str], letters: str) -> str:
    """The text holds one letter or one choice among other words."""
    in_brackets = _bracketed(text, letters)
    if in_brackets:
        return in_brackets.pop() if len(in_brackets) == 1 else ""
    occurring = _occurring(text, choices, letters)
    if occurring:
        return occurring.pop() if len(occurring) == 1 else ""
    alone = {letter for letter in re.findall(r"(?<![\w'])([A-Z])(?![\w'])", text) if letter in letters}
    if "A" in alone and not re.search(r"(?<!\w)A$", text):
        alone.discard("A")
    if "I" in alone:
        alone.discard("I")
    return alone.pop() if len(alone) == 1 else ""


def _same_text(text: str, choices: Sequence[str], letters: str) -> str:
    wanted, number = _plain(text), read_number(text)
    alike = [
        letter
        for letter, choice in zip(letters, choices, strict=False)
        if _plain(choice) == wanted or (number is not None and read_number(choice) == number)
    ]
    return alike[0] if len(alike) == 1 and wanted else ""


def _occurring(text: str, choices: Sequence[str], letters: str) -> set[str]:
    """Choices whose text stands in the answer as whole words, but for those that stand only inside a longer one."""
    rest, found = _plain(text), set()
    for letter, choice in sorted(zip(letters, choices, strict=False), key=lambda pair: -len(pair[1])):
        pattern = rf"(?<!\w){re.escape(_plain(choice))}(?!\w)"
        if _plain(choice) and re.search(pattern, rest):
            found.add(letter)
            rest = re.sub(pattern, " ", rest)
    return found


def _plain(text: str) -> str:
    return re.sub(r"[^\w\s]", " ", text.casefold()).strip().replace("  ", " ")
