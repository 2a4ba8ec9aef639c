"""Concepts as the Python functions take them: a name, a file, or a `Concept` that a script made."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

from lmms_steer.concepts.loader import SUFFIXES, Concept, Pair, checked_concept, load, names
from lmms_steer.errors import UserError, shorten

_EXPECTED = (
    "expected the name of a concept, a .yaml, .jsonl or .csv file of sentences, or Concept(name, about, (Pair(anchor,"
    " sentence), …)) of lmms_steer.concepts"
)


def is_one(given: object) -> bool:
    """Whether this is one concept, and not several."""
    return isinstance(given, str | os.PathLike | Concept)


def listed_concepts(given: Any) -> list[Any]:
    """Concepts in a list, whether one was given or several.

    Raises:
        UserError: for something else.
    """
    if is_one(given):
        return [given]
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise UserError(f"{_EXPECTED}, or a list of them; got a {type(given).__name__}")
    return list(given)


def read_concept(given: Any) -> Concept:
    """The concept of this name, of this file, or this one.

    Raises:
        UserError: as `load`; for something else, a sentence for example, and for a `Concept` that no file could hold.
    """
    if isinstance(given, Concept):
        return _checked(given)
    if not is_one(given):
        raise UserError(f"{_EXPECTED}; got {shorten(repr(given))}")
    name = os.fspath(given)
    parts = [part.strip() for part in name.split(",")]
    if len(parts) > 1 and not set(parts) - set(names()):
        raise UserError(f"{shorten(name)!r}: of several concepts give a list, {parts}")
    if len(name.split()) > 1 and not name.endswith(SUFFIXES):
        raise UserError(f"{_EXPECTED}; got {shorten(repr(name))}")
    return load(name)


def _checked(concept: Concept) -> Concept:
    named = f"Concept {shorten(concept.name)}"
    for pair in (*concept.pairs, *concept.contrast):
        parts = (pair.anchor, pair.sentence) if isinstance(pair, Pair) else ()
        if not parts or not all(isinstance(part, str) and part.strip() for part in parts):
            raise UserError(f"{named!r}: expected pairs Pair(anchor, sentence) of texts, got {shorten(repr(pair))}")
    return checked_concept(str(concept.name), str(concept.about), tuple(concept.pairs), tuple(concept.contrast), named)
