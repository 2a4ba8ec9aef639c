"""Sentence-anchor pairs as data, one YAML file a concept, and their loader."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from lmms_steer.errors import UserError, one_line, unknown


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence, and the word in it that is the concept's."""

    anchor: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Concept:
    """What a vector is about.

    Attributes:
        name: as a user types it.
        about: one line for people.
        pairs: the sentences whose anchors are the concept's tokens.
        contrast: where given, the anchors of *these* sentences are the control tokens (a word against other words);
            where empty, the controls are the other tokens of `pairs` (the paper's choice).
    """

    name: str
    about: str
    pairs: tuple[Pair, ...]
    contrast: tuple[Pair, ...] = ()

    @property
    def sentences_sha256(self) -> str:
        """Of all pairs in their order: a changed sentence is another vector."""
        content = [[[p.anchor, p.sentence] for p in pairs] for pairs in (self.pairs, self.contrast)]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def load(name: str | Path) -> Concept:
    """A concept that ships, by name, or a user's own, by the path of its YAML file.

    Raises:
        UserError: for a name that does not exist, or a file that does not hold a concept.
    """
    if str(name).endswith((".yaml", ".yml")):
        return _from_file(Path(name), str(name))
    for concept in shipped():
        if concept.name == name:
            return concept
    raise unknown("concept", name, names())


def names() -> list[str]:
    """The concepts that ship; a family (`colour`) counts once for each of its words (`colour-red`)."""
    return [concept.name for concept in shipped()]


def shipped() -> Iterator[Concept]:
    """Every concept that ships, in the order of the files' names."""
    for entry in sorted(files(__name__).iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            data = yaml.safe_load(entry.read_text(encoding="utf-8"))
            yield from _family(data) if "frames" in data else [_concept(data, entry.name)]


def _from_file(path: Path, shown: str) -> Concept:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the concept {shown!r}: {one_line(error)}") from error
    if not isinstance(data, dict):
        raise UserError(f"{shown!r} is no concept: expected 'name:' and 'pairs:' with a list of 'anchor: sentence'")
    return _concept(data, shown)


def _concept(data: dict[str, Any], shown: str) -> Concept:
    if not isinstance(data.get("name"), str) or "pairs" not in data:
        raise UserError(f"{shown!r} is no concept: expected 'name:' and 'pairs:' with a list of 'anchor: sentence'")
    name = data["name"]
    if not name.replace("-", "").replace("_", "").isalnum():
        raise UserError(f"{shown!r}: the name {name!r} should be of letters, digits, '-' and '_': it names a folder")
    contrast = _pairs(data["contrast"], shown, "contrast") if data.get("contrast") else ()
    return Concept(name, str(data.get("about", "")), _pairs(data["pairs"], shown, "pairs"), contrast)


def _pairs(entries: object, shown: str, key: str) -> tuple[Pair, ...]:
    pairs = []
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], start=1):
        if not isinstance(entry, dict) or len(entry) != 1:
            raise UserError(f"{shown!r}, {key} {number}: expected 'anchor: sentence', got {entry!r}")
        anchor, sentence = next(iter(entry.items()))
        if not isinstance(anchor, str) or not isinstance(sentence, str):
            raise UserError(
                f"{shown!r}, {key} {number}: put quotes around {anchor!r}, which YAML does not read as a word"
            )
        pairs.append(Pair(anchor, sentence))
    return tuple(pairs)


def _family(data: dict[str, Any]) -> Iterator[Concept]:
    frames, words = data["frames"], data["words"]
    for word in words:
        others = [other for other in words if other != word]
        yield Concept(
            name=f"{data['name']}-{word}",
            about=f"{word}: {data['about']}",
            pairs=tuple(Pair(word, frame.format(word)) for frame in frames),
            contrast=tuple(Pair(other, frame.format(other)) for other in others for frame in frames),
        )
