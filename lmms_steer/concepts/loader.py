"""Load concepts: those that ship, or a user's own in YAML, JSONL or CSV.

    mine.yaml    name: mine            mine.jsonl   {"anchor": "left", "sentence": "The cup is left of it."}
                 pairs:
                   - left: The cup …   mine.csv     anchor,sentence
                                                    left,The cup is left of it.

A JSONL or CSV row may have `contrast` (true or 1): its anchor is then a control token. The name of a JSONL or CSV file
is the concept's name.
"""

import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from lmms_steer._util.io import is_regular_file, read_limited
from lmms_steer._util.json import json_lines, parse_json
from lmms_steer._util.yaml import MAX_BYTES, STR, YamlNode, parse_yaml
from lmms_steer.errors import UserError, first_line, reason, shorten, unknown_name

SUFFIXES = (".yaml", ".yml", ".jsonl", ".csv")
_EXPECTED_YAML = "expected 'name:' and 'pairs:' with a list of 'anchor: sentence'"
_YAML_KEYS = ("name", "about", "pairs", "contrast")
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Thai, Lao, Burmese, Khmer, Japanese and Chinese characters, whose words no spaces part."""
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no", "", "none", "null")


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence, and the anchor: the word or phrase in it that belongs to the concept."""

    anchor: str
    sentence: str

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Every occurrence of the anchor as a whole word, in any case: [(start, end)] in characters.

        Where its first or last character is of a script that is written without spaces, a word may begin or end
        anywhere, but no word ends before a vowel sign or an accent of its own.
        """
        anchor = self.anchor.strip()
        # a sentence may be written in the other Unicode form: é as one character, or as e and an accent
        forms = dict.fromkeys((anchor, *(unicodedata.normalize(form, anchor) for form in ("NFC", "NFD"))))
        return next(filter(None, (_occurrences(form, self.sentence) for form in forms if form)), [])


@dataclass(frozen=True, slots=True)
class Concept:
    """The sentences that a vector is extracted from.

    Attributes:
        name: as in commands and vectors' names.
        about: one line for people.
        pairs: the sentences whose anchors are the concept's tokens.
        contrast: sentences whose anchors are the control tokens (a word against other words); if empty, the control
            tokens are the other tokens of `pairs` (the paper's choice).
    """

    name: str
    about: str
    pairs: tuple[Pair, ...]
    contrast: tuple[Pair, ...] = ()

    @property
    def sentences_sha256(self) -> str:
        """The hash of all pairs in their order. Vectors from changed sentences have another provenance."""
        content = [[[p.anchor, p.sentence] for p in pairs] for pairs in (self.pairs, self.contrast)]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()

    @property
    def repeated(self) -> list[tuple[int, int]]:
        """Pairs that repeat an earlier one of the concept, or of its contrast: (its number, the first one's), from 0.

        Numbers of the contrast go on after those of `pairs`. Case and spaces make no difference.
        """
        first: dict[tuple[bool, str, str], int] = {}
        found: list[tuple[int, int]] = []
        for number, pair in enumerate((*self.pairs, *self.contrast)):
            text = " ".join(pair.sentence.casefold().split())
            place = first.setdefault((number < len(self.pairs), pair.anchor.casefold(), text), number)
            if place != number:
                found.append((number, place))
        return found


def _occurrences(anchor: str, sentence: str) -> list[tuple[int, int]]:
    before, after = (
        "" if re.match(f"[{_UNSPACED}]", edge) else rf"[^\W{_UNSPACED}]" for edge in (anchor[0], anchor[-1])
    )
    whole_word = f"{before and f'(?<!{before})'}{re.escape(anchor)}{after and f'(?!{after})'}"
    spans = (match.span() for match in re.finditer(whole_word, sentence, re.IGNORECASE))
    return [
        (start, end)
        for start, end in spans
        if not (before and _is_mark(sentence[:start][-1:], _UNSPACED)) and not _is_mark(sentence[end : end + 1])
    ]


def _is_mark(character: str, but: str = "") -> bool:
    """Whether this is a vowel sign or an accent, which is a part of a word though `\\w` does not match it.

    Args:
        character: one, or "".
        but: a range of characters that do not count, as in a regular expression. Nor do those that choose how an emoji
            looks.
    """
    if not character or re.match(rf"[\ufe00-\ufe0f{but}]", character):
        return False
    return unicodedata.category(character).startswith("M")


def load(name: str | Path) -> Concept:
    """Load a concept that ships, by its name, or a user's own, by the path of its YAML, JSONL or CSV file.

    Raises:
        UserError: for an unknown name, or a file that is not a concept.
    """
    if str(name).endswith(SUFFIXES):
        return read(Path(name))
    for concept in shipped():
        if concept.name == name:
            return concept
    if is_regular_file(Path(name)):
        raise UserError(
            f"{str(name)!r} is not a concept: expected a file that ends in .yaml, .jsonl or .csv, with an anchor for"
            " each sentence"
        )
    for file in (Path(f"{name}{suffix}") for suffix in SUFFIXES):
        if is_regular_file(file):
            raise UserError(f"unknown concept {str(name)!r}: for the sentences in {file} give its whole name")
    raise unknown_name("concept", name, names())


def names() -> list[str]:
    """The names of the concepts that ship. A family (`colour`) has one concept per word (`colour-red`)."""
    return [concept.name for concept in shipped()]


@cache
def shipped() -> tuple[Concept, ...]:
    """Every concept that ships, in the order of the files' names."""
    return tuple(_read_shipped())


def _read_shipped() -> Iterator[Concept]:
    for entry in sorted(files("lmms_steer.concepts").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            text = entry.read_text(encoding="utf-8")
            if "\nframes:" in text:
                yield from _family(parse_yaml(text, entry.name).typed())
            else:
                yield parse_concept(text, entry.name)


def _family(data: dict[str, Any]) -> Iterator[Concept]:
    """One concept per word of a family, with the other words in the same sentences as its contrast."""
    frames, words = data["frames"], data["words"]
    for word in words:
        others = [other for other in words if other != word]
        yield Concept(
            name=f"{data['name']}-{word}",
            about=f"{word}: {data['about']}",
            pairs=tuple(Pair(word, frame.format(word)) for frame in frames),
            contrast=tuple(Pair(other, frame.format(other)) for other in others for frame in frames),
        )


def read(path: Path) -> Concept:
    """Read a concept from a file, by its suffix.

    Raises:
        UserError: for a file that cannot be read or is not a concept, with the number of the wrong line.
    """
    try:
        text = read_limited(path, MAX_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read the concept {str(path)!r}: {reason(error)}") from error
    if path.suffix in (".yaml", ".yml"):
        return parse_concept(text, str(path))
    rows = list(_jsonl(text, str(path)) if path.suffix == ".jsonl" else _csv(text, str(path)))
    pairs = tuple(pair for is_contrast, pair in rows if not is_contrast)
    contrast = tuple(pair for is_contrast, pair in rows if is_contrast)
    return checked_concept(path.stem, "", pairs, contrast, str(path))


def parse_concept(text: str, source: str) -> Concept:
    """Read a concept from YAML text.

    Args:
        text: the file's content.
        source: the file's name, for messages.

    Raises:
        UserError: as `read`.
    """
    entries = parse_yaml(text, source).value
    if not isinstance(entries, dict) or not {"name", "pairs"} & entries.keys():
        raise UserError(f"{source!r} is not a concept: {_EXPECTED_YAML}")
    for key, node in entries.items():
        if key not in _YAML_KEYS:
            raise UserError(f"{node.where}: {unknown_name('key', key, _YAML_KEYS)}")
    for key in ("name", "pairs"):
        if key not in entries:
            raise UserError(f"{source!r} is not a concept: '{key}:' is missing; {_EXPECTED_YAML}")
    name, about_node = _word(entries["name"]), entries.get("about")
    about = about_node.value if about_node is not None and isinstance(about_node.value, str) else ""
    contrast = tuple(_yaml_pairs(entries["contrast"])) if "contrast" in entries else ()
    pairs = tuple(_yaml_pairs(entries["pairs"]))
    return checked_concept(name, about, pairs, contrast, source)


def checked_concept(name: str, about: str, pairs: tuple[Pair, ...], contrast: tuple[Pair, ...], source: str) -> Concept:
    """A concept of these parts.

    Args:
        name, about, pairs, contrast: as `Concept` has them.
        source: what they come from, for messages.

    Raises:
        UserError: for a name that cannot be a folder's, or no pair.
    """
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(
            f"{source!r}: the concept's name {name!r} also names a folder: expected only letters, digits, '-' and '_'"
        )
    if not pairs:
        raise UserError(f"{source!r} has no pair of anchor and sentence")
    return Concept(name, about, pairs, contrast)


def _yaml_pairs(node: YamlNode) -> Iterator[Pair]:
    if not isinstance(node.value, list):
        raise UserError(f"{node.where}: expected a list of 'anchor: sentence'")
    for entry in node.value:
        if not isinstance(entry.value, dict) or len(entry.value) != 1:
            raise UserError(f"{entry.where}: expected one 'anchor: sentence'")
        ((anchor, sentence),) = entry.value.items()
        if sentence.value is None:
            raise UserError(f"{entry.where}: the sentence of {anchor!r} is missing")
        yield Pair(_checked_word(anchor, sentence.key_tag, entry.where), _word(sentence))


def _word(node: YamlNode) -> str:
    return _checked_word(node.value if isinstance(node.value, str) else "this", node.tag, node.where)


def _checked_word(text: str, tag: str, where: str) -> str:
    if tag != STR:
        raise UserError(f"{where}: put quotes around {text!r}, which YAML does not read as text")
    return text


def _jsonl(text: str, source: str) -> Iterator[tuple[bool, Pair]]:
    """For each row whether it belongs to the contrast, and its pair."""
    for number, line in enumerate(json_lines(text), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            raise UserError(f"{source!r}, line {number}: not JSON: {first_line(error)}") from error
        if not isinstance(row, dict):
            raise UserError(
                f'{source!r}, line {number}: expected {{"anchor": …, "sentence": …}}, got {line.strip()[:60]!r}'
            )
        yield _row(row, source, number)


def _csv(text: str, source: str) -> Iterator[tuple[bool, Pair]]:
    """As `_jsonl`."""
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        columns = ",".join(reader.fieldnames or [])
        if not {"anchor", "sentence"} <= set(reader.fieldnames or []):
            how = ": separate them by commas" if ";" in columns or "\t" in columns else ""
            raise UserError(
                f"{source!r}, line 1: expected the columns anchor,sentence, got {shorten(repr(columns))}{how}"
            )
        if len(set(reader.fieldnames or [])) < len(reader.fieldnames or []):
            raise UserError(f"{source!r}, line 1: a column appears twice in {shorten(repr(columns))}")
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{source!r}, line {reader.line_num}: the number of columns differs from the header's: put"
                    " quotes around a sentence with a comma"
                )
            yield _row(row, source, reader.line_num)
    except csv.Error as error:
        raise UserError(f"{source!r}, line {reader.line_num}: not CSV: {error}") from error


def _row(row: dict[str, object], source: str, number: int) -> tuple[bool, Pair]:
    anchor, sentence = row.get("anchor"), row.get("sentence")
    if not isinstance(anchor, str) or not isinstance(sentence, str) or not anchor.strip() or not sentence.strip():
        raise UserError(
            f"{source!r}, line {number}: expected an anchor and a sentence, got {anchor!r} and {sentence!r}"
        )
    for key in row:
        if key not in ("anchor", "sentence", "contrast") and get_close_matches(str(key).strip().lower(), ["contrast"]):
            raise UserError(f"{source!r}, line {number}: unknown key {key!r}: did you mean 'contrast'?")
    contrast = str(row.get("contrast", "")).strip().lower()
    if contrast not in (*_TRUE, *_FALSE):
        raise UserError(f"{source!r}, line {number}: contrast={row.get('contrast')!r}: expected true or false")
    return contrast in _TRUE, Pair(anchor.strip(), sentence.strip())
