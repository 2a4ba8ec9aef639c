"""Read which choice of a multiple-choice question an answer names, by its letter or its text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from lmms_steer.scoring.answer_text import clean_answer, read_number, stated_answer, undecorated
from lmms_steer.scoring.number import parse_number

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LETTER_FIRST = re.compile(r"^[(\[]?([A-Za-z])[)\].:,\-]+\s*(.*)$", re.DOTALL)
_VERBS = "is|was|would|has|seems|looks|appears|shows|matches|fits"
_AFTER_A = re.compile(
    rf"\s*(?:$|[,;:!?)\]–—/&]|-\s)|\s+(?:{_VERBS}|which|because|since|as|so|for|and|or|here|now|it)\b", re.IGNORECASE
)
"""What follows the letter `A`, and not the article."""
_BEFORE_A = re.compile(r"(?<=[a-z])(?<!\bis)(?<!\bare)(?<!\bbe) $")
"""What is written before the letter `A`, where an article would be in lower case; at most six characters are read."""
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
_AROUND_A_NUMBER = "()[].,:;!? "
_SIGNS = r"(?<!\w)-(?=[$€£]?\d)|(?<=\d)[.,](?=\d)"
_UNITS = r"[$€£](?=\d)|(?<=\d)[%°]"
_COMPARED_WITH = tuple(re.compile(rf"({marks})|[^\w\s]") for marks in (f"{_SIGNS}|{_UNITS}", _SIGNS))
"""Punctuation; group 1 holds marks of numbers. Units count first, and not if no choice is found: `20` may be `20%`."""
_ARTICLES = ("a", "i")
"""Choices that are also words: as a part of an answer they are read as letters only."""
_BARE = re.compile(r"^[(\[]?([A-Za-z])[)\]]?[.:,!]?$")


def parse_choice(answer: str, choices: Sequence[str], strict: bool = False) -> str:
    """Return the letter of the one choice that an answer names; "" if it names none, or more than one.

    The first of these rules that applies decides:

    1. The answer is a letter (`C`, `(c)`, `C.`), or its first line is, and the other lines name no other choice.
    2. The answer is the text of a choice.
    3. The answer begins with a letter (`B) 3`), and what follows is not the text of another choice. Nothing is read
       from a list of letters (`A, B`) or of choices (`A) left B) right`).
    4. Rules 1 to 3 apply to what follows `the answer is`.
    5. Exactly one letter is in parentheses.
    6. The text of exactly one choice occurs in the answer.
    7. Exactly one capital letter stands alone. `A`, which is also a word, counts where no article can stand: after a
       word in lower case (`option A`), and before a verb, a conjunction or a mark (`A is right`, `A or C`, `A, as`).

    Where the choices are numbers, rule 2 compares numbers, and rule 6 takes the one that `parse_number` reads: `-3`,
    `3.5` and `2-3` are not the choice `3`. In other choices, too, a number's sign, point and unit are compared; its
    unit (`$5`, `5%`) only where a choice has the answer's.

    The strict reading stops after rule 4: of an answer like `I would not say left` it reads nothing, where the lenient
    reading finds the choice `left`.

    Args:
        answer: the model's answer.
        choices: the texts of the choices, the first being A.
        strict: whether to read strictly.
    """
    letters = LETTERS[: len(choices)]
    first, *lines = undecorated(answer).split("\n")
    bare = _bare_letter(clean_answer(first), letters)
    if bare and lines:
        rest = "\n".join(line for line in lines if _bare_letter(clean_answer(line), letters) != bare)
        if parse_choice(rest, choices, strict=True) in ("", bare):
            return bare
    text = clean_answer(answer)
    letter = _whole_answer(text, choices, letters)
    if letter is not None:
        return letter
    conclusion = stated_answer(text)
    if conclusion is not None:
        letter = _whole_answer(conclusion, choices, letters)
        if letter is not None:
            return letter
        letter = _before_reason(conclusion, letters)
        if not letter and not strict:
            letter = _part_of_answer(conclusion, choices, letters)
        if letter:
            return letter
    return "" if strict else _part_of_answer(text, choices, letters)


def parse_text(answer: str, texts: Sequence[str], strict: bool = False) -> str:
    """Return the one of several texts that an answer names; "" if it names none, or more than one.

    For questions that show no letters. The strict reading takes an answer that is the text, with or without an article,
    or where nothing else follows `the answer is`; the lenient one also a text that occurs in it, unless another does.

    Args:
        answer: the model's answer.
        texts: the possible answers.
        strict: whether to read strictly.
    """
    text = clean_answer(answer)
    parts = [part for part in (text, stated_answer(text)) if part is not None]
    for part in parts:
        same = _same_text(_ARTICLE.sub("", part), texts, texts)
        if same:
            return same
    occurring = [] if strict else [_occurring(part, texts, texts) for part in reversed(parts)]
    return next((found.pop() for found in occurring if len(found) == 1), "")


def choices_of(doc: Mapping[str, Any]) -> list[str]:
    """Return the texts of a document's choices, the first being A; [] if it has none of our benchmarks' columns."""
    choices = next((doc[key] for key in ("choices", "captions") if doc.get(key)), None)
    return [str(choice) for choice in choices] if isinstance(choices, list | tuple) else []


def choice_text(letter: str, choices: Sequence[str]) -> str:
    """Return the text of the choice with a letter (`B` or `(B)`); "" if there is none, or its text is a letter too."""
    bare = letter.strip().strip("()")
    index = LETTERS.find(bare) if len(bare) == 1 else -1
    text = choices[index] if 0 <= index < len(choices) else ""
    return "" if re.fullmatch(r"\(?[A-Z]\)?", text) else text


def _whole_answer(text: str, choices: Sequence[str], letters: str) -> str | None:
    """Apply rules 1 to 3; None if none applies, "" for a list, or a letter with another choice's text."""
    bare = _bare_letter(text, letters)
    if bare:
        return bare
    same = _same_text(text, choices, letters)
    if same:
        return same
    if len(_only_letters(text, letters)) > 1 or len(_labelled(text, choices, letters)) > 1:
        return ""
    first = _LETTER_FIRST.match(text)
    if first and first[1].upper() in letters and not _bracketed(first[2], letters) - {first[1].upper()}:
        other = _same_text(clean_answer(first[2]), choices, letters)
        return "" if other and other != first[1].upper() else first[1].upper()
    return None


def _bare_letter(text: str, letters: str) -> str:
    """Return the letter that a text consists of; "" if it is another text."""
    bare = _BARE.match(text)
    return bare[1].upper() if bare and bare[1].upper() in letters else ""


def _before_reason(conclusion: str, letters: str) -> str:
    """Read `B because …`; `A` must not be an article."""
    first = re.match(r"([A-Z])(?=[,\s])", conclusion)
    if first is None or first[1] not in letters or (first[1] == "A" and not _AFTER_A.match(conclusion, 1)):
        return ""
    return first[1]


def _only_letters(text: str, letters: str) -> set[str]:
    """Return the letters of an answer that has no other words than `and` and `or`."""
    words = re.findall(r"\w+", text)
    found = {word for word in words if len(word) == 1 and word in letters}
    return found if all(word in found or word in ("and", "or") for word in words) else set()


def _labelled(text: str, choices: Sequence[str], letters: str) -> set[str]:
    """Return the letters that stand before the text of their choices: both of `A) left B) right`."""
    return {
        letter
        for letter, choice in zip(letters, choices, strict=False)
        if choice.strip()
        and re.search(rf"(?<!\w){letter}[)\].:]\s*{re.escape(choice.strip())}(?!\w)", text, re.IGNORECASE)
    }


def _bracketed(text: str, letters: str) -> set[str]:
    """Return the letters that are in parentheses or brackets."""
    return {letter.upper() for letter in re.findall(r"[(\[]([A-Za-z])[)\]]", text)} & set(letters)


def _part_of_answer(text: str, choices: Sequence[str], letters: str) -> str:
    """Apply rules 5 to 7: one letter or one choice among other words."""
    in_brackets = _bracketed(text, letters)
    if in_brackets:
        return in_brackets.pop() if len(in_brackets) == 1 else ""
    occurring = _occurring(text, choices, letters)
    if occurring:
        return occurring.pop() if len(occurring) == 1 else ""
    alone = {letter for letter in re.findall(r"(?<![\w'])([A-Z])(?![\w'])", text) if letter in letters}
    if "A" in alone and not _has_letter_a(text):
        alone.discard("A")
    if "I" in alone:
        alone.discard("I")
    return alone.pop() if len(alone) == 1 else ""


def _has_letter_a(text: str) -> bool:
    """Whether an `A` of a text is the letter, and not the article."""
    return any(
        _AFTER_A.match(text, found.end()) or _BEFORE_A.search(text[max(0, found.start() - 6) : found.start()])
        for found in re.finditer(r"(?<![\w'])A(?![\w'])", text)
    )


def _same_text(text: str, choices: Sequence[str], labels: Sequence[str]) -> str:
    """Return the label of the only choice that is equal to a text, in words or as a number; "" if there is none."""
    number, numbers = read_number(text.strip(_AROUND_A_NUMBER)), _are_numbers(choices)
    for marks in _COMPARED_WITH:
        wanted = _plain(text, marks)
        same = [
            label
            for label, choice in zip(labels, choices, strict=False)
            if (number is not None and read_number(choice) == number)
            or (_plain(choice, marks) == wanted and not numbers)
        ]
        if same and wanted:
            return same[0] if len(same) == 1 else ""
    return ""


def _are_numbers(choices: Sequence[str]) -> bool:
    return all(read_number(choice) is not None for choice in choices)


def _occurring(text: str, choices: Sequence[str], labels: Sequence[str]) -> set[str]:
    """Return the labels of the choices that occur as whole words, without those that occur only in a longer choice."""
    if _are_numbers(choices):
        number = parse_number(text)
        return {label for label, choice in zip(labels, choices, strict=False) if read_number(choice) == number}
    pairs = list(zip(labels, choices, strict=False))
    return next(filter(None, (_as_words(text, pairs, marks) for marks in _COMPARED_WITH)), set())


def _as_words(text: str, pairs: Sequence[tuple[str, str]], marks: re.Pattern[str]) -> set[str]:
    rest, found = _plain(text, marks), set[str]()
    plains = {label: _plain(choice, marks) for label, choice in pairs}
    for plain in sorted({*plains.values()} - {"", *_ARTICLES}, key=len, reverse=True):
        pattern = rf"(?<![\w.,$€£-]){re.escape(plain)}(?![\w%°]|[.,]\d)"
        if re.search(pattern, rest):
            found |= {label for label, one in plains.items() if one == plain}
            rest = re.sub(pattern, " ", rest)
    return found


def _plain(text: str, marks: re.Pattern[str]) -> str:
    """Fold case and drop punctuation, but for the marks of numbers that group 1 matches."""
    kept = marks.sub(lambda mark: mark[1] or " ", text.casefold().replace("\u2212", "-"))
    return " ".join(kept.split())
