"""Sentence-anchor pairs as data, one YAML file a concept, and their loader."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from lmms_steer.errors import unknown


@dataclass(frozen=True, slots=True)
class Pair:
    """A sentence, and the word in it that is the concept's."""

    anchor: str
    sentence: str

    @property
    def spans(self) -> list[tuple[int, int]]:
        """Where the anchor stands, as a whole word, whatever its case: [(start, end)] in characters."""
        whole = rf"(?<!\w){re.escape(self.anchor)}(?!\w)"
        return [match.span() for match in re.finditer(whole, self.sentence, re.IGNORECASE)]


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
    """A concept that ships, by name, or a user's own, by the path of its YAML, JSONL or CSV file.

    Raises:
        UserError: for a name that does not exist, or a file that does not hold a concept.
    """
    from lmms_steer.concepts.reader import SUFFIXES, read

    if str(name).endswith(SUFFIXES):
        return read(Path(name))
    for concept in shipped():
        if concept.name == name:
            return concept
    raise unknown("concept", name, names())


def names() -> list[str]:
    """The concepts that ship; a family (`colour`) counts once for each of its words (`colour-red`)."""
    return [concept.name for concept in shipped()]


def shipped() -> Iterator[Concept]:
    """Every concept that ships, in the order of the files' names."""
    from lmms_steer.concepts.reader import parse_yaml

    for entry in sorted(files(__name__).iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".yaml"):
            text = entry.read_text(encoding="utf-8")
            if "\nframes:" in text:
                yield from _family(yaml.safe_load(text))
            else:
                yield parse_yaml(text, entry.name)


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
