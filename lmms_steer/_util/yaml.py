"""Strict YAML: duplicate keys are errors, and every value knows its line for error messages.

Built on PyYAML's composer. Its loader keeps the last of two equal keys without a word and forgets the lines. Documents
that would take too long or too much memory are refused while they are composed (`BoundedComposer`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lmms_steer._util.io import read_limited
from lmms_steer.errors import UserError, first_line, reason, shorten

STR = "tag:yaml.org,2002:str"
NULL = "tag:yaml.org,2002:null"
MAP = "tag:yaml.org,2002:map"
SEQ = "tag:yaml.org,2002:seq"
MERGE = "tag:yaml.org,2002:merge"
MAX_NODES = 100_000
"""Limit of the number of values. Aliases are expanded, so a file of a few lines can stand for billions of values."""
MAX_DEPTH = 100
"""Limit of how many lists and mappings a value is inside of."""
MAX_BYTES = 1 << 21
"""Limit of a file's size; PyYAML reads about 100 kB a second."""
MAX_SCALAR = 1000
"""Limit of the length of a number or a date; Python's time for some grows with the square of it."""
VALUE_ERRORS = (ValueError, TypeError, LookupError, AttributeError, OverflowError)
"""What PyYAML's constructors raise, besides its own errors, for a value that does not fit its tag."""
_TEXT_PER_NODE = 100
"""So many characters of a text count as one more value, because an alias can repeat a long text as well."""


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
            plain = {scalar(key, child.key_tag, child.where): child._plain(scalar) for key, child in pairs}
            if len(plain) < len(self.value):
                raise UserError(f"{self.where}: two of the keys are equal, such as 1 and 0x1")
            return plain
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
        text = read_limited(path, MAX_BYTES).decode("utf-8-sig")
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
        root = BoundedComposer(text, source).get_single_node()
        return YamlNode(None, f"{source}, line 1", NULL) if root is None else _Builder(source).node(root)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise YamlSyntaxError(f"{source}, line {line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise YamlSyntaxError(f"{source} is not valid YAML: {first_line(error)}") from error
    except UserError:
        raise
    except (ValueError, OverflowError) as error:
        # what PyYAML's scanner raises for escapes and version numbers that are too large
        raise YamlSyntaxError(f"{source} is not valid YAML: {first_line(error)}") from error


class YamlSyntaxError(UserError):
    """A text that is not valid YAML at all."""


def nodes_below(node: YamlNode) -> Iterator[YamlNode]:
    """All nodes below a node, depth first."""
    children = node.value.values() if isinstance(node.value, dict) else node.value
    for child in list(children) if not isinstance(children, str | None) else ():
        yield child
        yield from nodes_below(child)


class BoundedComposer(yaml.SafeLoader):
    """Composes a document's nodes, and refuses it at the line where a limit is exceeded.

    Aliases are counted with all that they stand for, but not expanded, so that the time is that of reading the text.

    Args:
        stream: the document, as PyYAML takes it.
        source: name of the document in messages.
    """

    def __init__(self, stream: Any, source: str) -> None:
        super().__init__(stream)
        self.source = source
        self._depth = self._total = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, as PyYAML's method does.

        Raises:
            UserError: beyond `MAX_NODES` values or `MAX_DEPTH` levels, and for an alias inside its own anchor.
        """
        event, before = self.peek_event(), self._total  # type: ignore[no-untyped-call]
        where = f"{self.source}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise UserError(f"{where}: the alias *{event.anchor} is inside the value that it stands for")
            self._add(self._sizes[id(node)], where)
            return node
        self._add(1 + len(getattr(event, "value", "")) // _TEXT_PER_NODE, where)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UserError(f"{where}: nested too deeply, more than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._sizes[id(node)] = self._total - before
        return node

    def _add(self, size: int, where: str) -> None:
        self._total += size
        if self._total > MAX_NODES:
            raise UserError(f"{where}: more than {MAX_NODES} values, those behind aliases included")


class _Builder:
    """Builds `YamlNode`s from PyYAML's nodes."""

    def __init__(self, source: str) -> None:
        self.source = source

    def node(self, node: yaml.Node) -> YamlNode:
        where = f"{self.source}, line {node.start_mark.line + 1}"
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
                self._merge(value, where, merged)
                continue
            if key.value in children:
                raise UserError(f"{where}: {key.value!r} is given twice")
            child = self.node(value)
            child.where, child.key_tag = where, key.tag
            children[key.value] = child
        return {**merged, **children}

    def _merge(self, value: yaml.Node, where: str, found: dict[str, YamlNode]) -> None:
        """Add the keys that `<<` takes over; of several mappings the first one wins."""
        for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(part, yaml.MappingNode):
                raise UserError(f"{where}: << takes a mapping, or a list of mappings")
            for key, child in self._mapping(part).items():
                found.setdefault(key, child)


def _typed(text: str | None, tag: str, where: str) -> Any:
    if tag != STR and len(text or "") > MAX_SCALAR:
        raise UserError(f"{where}: a {tag.rpartition(':')[2]} of {len(text or '')} characters")
    try:
        return yaml.constructor.SafeConstructor().construct_object(yaml.ScalarNode(tag, text or ""))
    except yaml.YAMLError as error:
        raise UserError(f"{where}: {first_line(error)}") from error
    except VALUE_ERRORS as error:
        raise UserError(
            f"{where}: {shorten(text)!r} is not a valid {tag.rpartition(':')[2]}: {first_line(error)}"
        ) from error
