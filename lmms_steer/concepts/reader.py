"""A user's own concept: YAML, JSONL or CSV, with the line in every complaint.

    mine.yaml    name: mine            mine.jsonl   {"anchor": "left", "sentence": "The cup is left of it."}
                 pairs:
                   - left: The cup …   mine.csv     anchor,sentence
                                                    left,The cup is left of it.

A JSONL or CSV row may say `contrast` (true or 1): its anchor is then a control token. The file's name is the concept's.
"""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from lmms_steer.concepts import Concept, Pair
from lmms_steer.errors import UserError, one_line

SUFFIXES = (".yaml", ".yml", ".jsonl", ".csv")
_EXPECTED_YAML = "expected 'name:' and 'pairs:' with a list of 'anchor: sentence'"
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no", "", "none", "null")


def read(path: Path) -> Concept:
    """Read a file by its suffix.

    Raises:
        UserError: when it cannot be read or is no concept; with the line's number where one line is to blame.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the concept {str(path)!r}: {one_line(error)}") from error
    if path.suffix in (".yaml", ".yml"):
        return parse_yaml(text, str(path))
    rows = list(_jsonl(text, str(path)) if path.suffix == ".jsonl" else _csv(text, str(path)))
    pairs = tuple(pair for contrast, pair in rows if not contrast)
    return _named(path.stem, "", pairs, tuple(pair for contrast, pair in rows if contrast), str(path))


def parse_yaml(text: str, shown: str) -> Concept:
    """A concept from YAML text.

    Args:
        text: the file's content.
        shown: what to call the file in a complaint.

    Raises:
        UserError: as `read`.
    """
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"cannot read the concept {shown!r}: {_yaml_error(error)}") from error
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{shown!r} is no concept: {_EXPECTED_YAML}")
    entries = {key.value: value for key, value in root.value}
    if "name" not in entries or "pairs" not in entries:
        raise UserError(f"{shown!r} is no concept: {_EXPECTED_YAML}")
    name, about = _word(entries["name"], shown), entries.get("about")
    contrast = tuple(_yaml_pairs(entries["contrast"], shown)) if "contrast" in entries else ()
    pairs = tuple(_yaml_pairs(entries["pairs"], shown))
    return _named(name, str(about.value) if isinstance(about, yaml.ScalarNode) else "", pairs, contrast, shown)


def _named(name: str, about: str, pairs: tuple[Pair, ...], contrast: tuple[Pair, ...], shown: str) -> Concept:
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(f"{shown!r}: the name {name!r} should be of letters, digits, '-' and '_': it names a folder")
    if not pairs:
        raise UserError(f"{shown!r} holds no pair of anchor and sentence")
    return Concept(name, about, pairs, contrast)


def _yaml_error(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return one_line(error)


def _yaml_pairs(node: yaml.Node, shown: str) -> Iterator[Pair]:
    if not isinstance(node, yaml.SequenceNode):
        raise UserError(f"{shown!r}, line {node.start_mark.line + 1}: expected a list of 'anchor: sentence'")
    for entry in node.value:
        if not isinstance(entry, yaml.MappingNode) or len(entry.value) != 1:
            raise UserError(f"{shown!r}, line {entry.start_mark.line + 1}: expected one 'anchor: sentence'")
        yield Pair(*(_word(part, shown) for part in entry.value[0]))


def _word(node: yaml.Node, shown: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
        value = node.value if isinstance(node, yaml.ScalarNode) else "this"
        raise UserError(
            f"{shown!r}, line {node.start_mark.line + 1}: put quotes around {value!r}, which YAML reads as no word"
        )
    return str(node.value)


def _jsonl(text: str, shown: str) -> Iterator[tuple[bool, Pair]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{shown!r}, line {number}: no JSON: {one_line(error)}") from error
        if not isinstance(row, dict):
            raise UserError(
                f'{shown!r}, line {number}: expected {{"anchor": …, "sentence": …}}, got {line.strip()[:60]!r}'
            )
        yield _row(row, shown, number)


def _csv(text: str, shown: str) -> Iterator[tuple[bool, Pair]]:
    reader = csv.DictReader(io.StringIO(text), strict=True)
    if reader.fieldnames is None or not {"anchor", "sentence"} <= set(reader.fieldnames):
        raise UserError(
            f"{shown!r}, line 1: expected the columns anchor,sentence, got {','.join(reader.fieldnames or [])!r}"
        )
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{shown!r}, line {reader.line_num}: another number of columns than the heading's: put quotes"
                    " around a sentence with a comma"
                )
            yield _row(row, shown, reader.line_num)
    except csv.Error as error:
        raise UserError(f"{shown!r}, line {reader.line_num}: no CSV: {error}") from error


def _row(row: dict[str, object], shown: str, number: int) -> tuple[bool, Pair]:
    anchor, sentence = row.get("anchor"), row.get("sentence")
    if not isinstance(anchor, str) or not isinstance(sentence, str) or not anchor.strip() or not sentence.strip():
        raise UserError(f"{shown!r}, line {number}: expected an anchor and a sentence, got {anchor!r} and {sentence!r}")
    contrast = str(row.get("contrast", "")).strip().lower()
    if contrast not in (*_TRUE, *_FALSE):
        raise UserError(f"{shown!r}, line {number}: contrast={row.get('contrast')!r}: expected true or false")
    return contrast in _TRUE, Pair(anchor.strip(), sentence.strip())
