"""The strict, line-aware YAML reader: every mistake is named with its line, and a key may not stand twice.

On PyYAML's composer rather than its loader, whose last of two equal keys wins, and which forgets the lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lmms_steer.errors import UserError, first_line

STR = "tag:yaml.org,2002:str"
NULL = "tag:yaml.org,2002:null"
MAX_NODES = 200_000
"""Aliases are copied out; a file of a few lines can stand for billions of values."""


@dataclass(slots=True)
class YamlNode:
    """A value, and where it stands.

    Attributes:
        value: children by key, a list of children, or a scalar's text; None for null.
        where: `FILE, line N`.
        tag: of a scalar, what YAML 1.1 takes it for (`STR`, …).
        key_tag: the same of the key that it stands under; a bare `on:` is a truth value to YAML.
    """

    value: dict[str, YamlNode] | list[YamlNode] | str | None
    where: str
    tag: str = STR
    key_tag: str = STR

    def text(self) -> Any:
        """Dicts, lists, texts and None. Scalars stay text: YAML 1.1 would read `10:50:10` as a number to base 60."""
        return self._plain(lambda text, tag, where: text)  # noqa: ARG005

    def typed(self) -> Any:
        """Dicts, lists and scalars of the types that YAML 1.1 gives them: numbers, truth values, dates, texts, None.

        Raises:
            UserError: for a scalar whose tag is not one of YAML's own.
        """
        return self._plain(_typed)

    def _plain(self, scalar: Any) -> Any:
        if isinstance(self.value, dict):
            pairs = self.value.items()
            return {scalar(key, child.key_tag, child.where): child._plain(scalar) for key, child in pairs}
        if isinstance(self.value, list):
            return [child._plain(scalar) for child in self.value]
        return scalar(self.value, self.tag, self.where)

    def at(self, path: tuple[Any, ...]) -> YamlNode:
        """The node at a path of keys and places, or the nearest one above it."""
        if not path:
            return self
        child = None
        if isinstance(self.value, dict):
            child = self.value.get(str(path[0]))
        elif isinstance(self.value, list) and isinstance(path[0], int) and path[0] < len(self.value):
            child = self.value[path[0]]
        return child.at(path[1:]) if child is not None else self


def read_yaml(path: Path, what: str = "") -> YamlNode:
    """The content of a file. An empty one is a null.

    Args:
        path: of the file.
        what: it is, for the message where it cannot be read ("the steering file").

    Raises:
        UserError: for a file that cannot be read, is not YAML, or has a key twice; with the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UserError(f"cannot read {f'{what} ' if what else ''}{str(path)!r}: {reason}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> YamlNode:
    """The content of a text.

    Args:
        text: one YAML document.
        source: what messages call it.

    Raises:
        UserError: as `read_yaml`.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        return YamlNode(None, f"{source}, line 1", NULL) if root is None else _Builder(source).node(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{source}, line {line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{source} is not valid YAML: {first_line(error)}") from error
    except RecursionError as error:
        raise UserError(f"{source} is not valid YAML: nested too deeply") from error


def nodes_below(node: YamlNode) -> Iterator[YamlNode]:
    """All nodes below one."""
    children = node.value.values() if isinstance(node.value, dict) else node.value
    for child in list(children) if not isinstance(children, str | None) else ():
        yield child
        yield from nodes_below(child)


class _Builder:
    def __init__(self, source: str) -> None:
        self.source, self.count = source, 0

    def node(self, node: yaml.Node) -> YamlNode:
        self.count += 1
        where = f"{self.source}, line {node.start_mark.line + 1}"
        if self.count > MAX_NODES:
            raise UserError(f"{where}: more than {MAX_NODES} values")
        if isinstance(node, yaml.MappingNode):
            return YamlNode(self._mapping(node), where, node.tag)
        if isinstance(node, yaml.SequenceNode):
            return YamlNode([self.node(child) for child in node.value], where, node.tag)
        return YamlNode(None if node.tag == NULL else str(node.value), where, node.tag)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, YamlNode]:
        found: dict[str, YamlNode] = {}
        for key, value in node.value:
            where = f"{self.source}, line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{where}: a key must be one word")
            if key.value in found:
                raise UserError(f"{where}: {key.value!r} is given twice")
            found[key.value] = self.node(value)
            found[key.value].where, found[key.value].key_tag = where, key.tag
        return found


def _typed(text: str | None, tag: str, where: str) -> Any:
    try:
        return yaml.constructor.SafeConstructor().construct_object(yaml.ScalarNode(tag, text or ""))
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UserError(f"{where}: {first_line(error)}") from error
