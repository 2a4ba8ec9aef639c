"""Strict YAML: duplicate keys are errors, and every value knows its line for error messages.

Built on PyYAML's composer. Its loader keeps the last of two equal keys without a word and forgets the lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lmms_steer.errors import UserError, first_line, reason, shorten

STR = "tag:yaml.org,2002:str"
NULL = "tag:yaml.org,2002:null"
MAP = "tag:yaml.org,2002:map"
SEQ = "tag:yaml.org,2002:seq"
MERGE = "tag:yaml.org,2002:merge"
MAX_NODES = 200_000
"""Limit of the number of values. Aliases are expanded, so a file of a few lines can stand for billions of values."""


@dataclass(slots=True)
class YamlNode:
    """A value and its position.

    Attributes:
        value: children by key, a list of children, or the text of a scalar; None for null.
        where: position for messages: `FILE, line N`.
        tag: type of a scalar in YAML 1.1 (`STR`, …).
        key_tag: type of the key of this value; an unquoted `on:` is a boolean in YAML 1.1.
    """

    value: dict[str, YamlNode] | list[YamlNode] | str | None
    where: str
    tag: str = STR
    key_tag: str = STR

    def untyped(self) -> Any:
        """The content as dicts, lists, strings and None. YAML 1.1 would read `10:50:10` as a base-60 number."""
        return self._plain(lambda scalar, tag, where: scalar)  # noqa: ARG005

    def typed(self) -> Any:
        """The content with the types of YAML 1.1: dicts, lists, numbers, booleans, dates, strings and None.

        Raises:
            UserError: for a scalar with a tag outside YAML 1.1 (`!!python/…`), or a value that does not fit its tag.
        """
        return self._plain(_typed)

    def _plain(self, scalar: Callable[[str | None, str, str], Any]) -> Any:
        if isinstance(self.value, dict):
            pairs = self.value.items()
            return {scalar(key, child.key_tag, child.where): child._plain(scalar) for key, child in pairs}
        if isinstance(self.value, list):
            return [child._plain(scalar) for child in self.value]
        return scalar(self.value, self.tag, self.where)

    def at(self, path: tuple[Any, ...]) -> YamlNode:
        """The node at a path of keys and list indexes, or the nearest existing node above it."""
        if not path:
            return self
        child = None
        if isinstance(self.value, dict):
            child = self.value.get(str(path[0]))
        elif isinstance(self.value, list) and isinstance(path[0], int) and path[0] < len(self.value):
            child = self.value[path[0]]
        return child.at(path[1:]) if child is not None else self


def read_yaml(path: Path, what: str = "") -> YamlNode:
    """Read a YAML file. An empty file is null.

    Args:
        path: the file.
        what: what the file is, for the message if it cannot be read ("the steering file").

    Raises:
        UserError: for a file that cannot be read, is not valid YAML, or has a duplicate key; with the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {f'{what} ' if what else ''}{str(path)!r}: {reason(error)}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> YamlNode:
    """Parse a YAML document.

    Args:
        text: the document.
        source: name of the document in messages.

    Raises:
        UserError: as `read_yaml`.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        return YamlNode(None, f"{source}, line 1", NULL) if root is None else _Builder(source).node(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise YamlSyntaxError(f"{source}, line {line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise YamlSyntaxError(f"{source} is not valid YAML: {first_line(error)}") from error
    except RecursionError as error:
        raise UserError(f"{source} is not valid YAML: nested too deeply") from error


class YamlSyntaxError(UserError):
    """A text that is not valid YAML at all."""


def nodes_below(node: YamlNode) -> Iterator[YamlNode]:
    """All nodes below a node, depth first."""
    children = node.value.values() if isinstance(node.value, dict) else node.value
    for child in list(children) if not isinstance(children, str | None) else ():
        yield child
        yield from nodes_below(child)


class _Builder:
    """Builds `YamlNode`s from PyYAML's nodes, and counts them."""

    def __init__(self, source: str) -> None:
        self.source, self.count = source, 0

    def node(self, node: yaml.Node) -> YamlNode:
        self.count += 1
        where = f"{self.source}, line {node.start_mark.line + 1}"
        if self.count > MAX_NODES:
            raise UserError(f"{where}: more than {MAX_NODES} values")
        if isinstance(node, yaml.CollectionNode) and node.tag not in (MAP, SEQ):
            raise UserError(f"{where}: the tag {node.tag!r} is not supported")
        if isinstance(node, yaml.MappingNode):
            return YamlNode(self._mapping(node), where, node.tag)
        if isinstance(node, yaml.SequenceNode):
            return YamlNode([self.node(child) for child in node.value], where, node.tag)
        return YamlNode(None if node.tag == NULL else str(node.value), where, node.tag)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, YamlNode]:
        children: dict[str, YamlNode] = {}
        merged: dict[str, YamlNode] = {}
        for key, value in node.value:
            where = f"{self.source}, line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{where}: a key must be a single value, not a list or a mapping")
            if key.tag == MERGE:
                merged = {**self._merged(value, where), **merged}
                continue
            if key.value in children:
                raise UserError(f"{where}: {key.value!r} is given twice")
            child = self.node(value)
            child.where, child.key_tag = where, key.tag
            children[key.value] = child
        return {**merged, **children}

    def _merged(self, value: yaml.Node, where: str) -> dict[str, YamlNode]:
        """The keys that `<<` takes over; of several mappings the first one wins."""
        found: dict[str, YamlNode] = {}
        for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(part, yaml.MappingNode):
                raise UserError(f"{where}: << takes a mapping, or a list of mappings")
            found = {**self._mapping(part), **found}
        return found


def _typed(text: str | None, tag: str, where: str) -> Any:
    try:
        return yaml.constructor.SafeConstructor().construct_object(yaml.ScalarNode(tag, text or ""))
    except yaml.YAMLError as error:
        raise UserError(f"{where}: {first_line(error)}") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        # what the constructors of PyYAML's own tags raise
        raise UserError(
            f"{where}: {shorten(text)!r} is not a valid {tag.rpartition(':')[2]}: {first_line(error)}"
        ) from error
