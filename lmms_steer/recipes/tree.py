"""YAML that knows its lines, laid over and changed key by key before it is validated."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lmms_steer.errors import UserError, one_line


@dataclass(slots=True)
class Tree:
    """A value, and where it was written. Scalars stay text: YAML 1.1 would read `10:50:10` as a number to base 60."""

    value: dict[str, Tree] | list[Tree] | str | None
    where: str

    def plain(self) -> Any:
        """Dicts, lists, texts and None."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def at(self, path: tuple[Any, ...]) -> Tree:
        """The part at a path, or the nearest that is above it."""
        if not path:
            return self
        child = None
        if isinstance(self.value, dict):
            child = self.value.get(str(path[0]))
        elif isinstance(self.value, list) and isinstance(path[0], int) and path[0] < len(self.value):
            child = self.value[path[0]]
        return child.at(path[1:]) if child is not None else self


def read(path: Path) -> Tree:
    """A file.

    Raises:
        UserError: for what is no YAML mapping, with the line.
    """
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}, line {line}: not valid YAML: {error.problem}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {str(path)!r}: {one_line(error)}") from error
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path} is not a recipe: expected keys such as models:, methods: and studies:")
    return _tree(node, str(path))


def lay_over(tree: Tree, over: Tree) -> None:
    """Put `over`'s values into the tree, key by key; its key `*` stands for every key that is there, null removes."""
    if not (isinstance(tree.value, dict) and isinstance(over.value, dict)):
        tree.value, tree.where = over.value, over.where
        return
    for key, child in over.value.items():
        for name in list(tree.value) if key == "*" else [key]:
            if child.value is None:
                tree.value.pop(name, None)
            elif name in tree.value:
                # a copy for each: what is set in one must not show in the others
                lay_over(tree.value[name], copy.deepcopy(child))
            else:
                tree.value[name] = child


def set_key(tree: Tree, assignment: str) -> None:
    """`models.NAME.pretrained=PATH`; a `*` stands for every key that is there, `null` removes one.

    Raises:
        UserError: for a path that leads nowhere.
    """
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise UserError(f"--set {assignment}: expected KEY=VALUE, as in --set models.NAME.pretrained=PATH")
    where = f"--set {assignment}"
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        node = None
    value = _tree(node, where) if node is not None else Tree(text, where)
    for found in (value, *_below(value)):
        found.where = where
    if not isinstance(value.value, dict):
        _assign(tree, path, value, where)
    else:
        raise UserError(f"{where}: expected one value or a list; several keys go into a file: --with FILE")


def _assign(tree: Tree, path: str, value: Tree, where: str) -> None:
    children = tree.value
    if not isinstance(children, dict):
        raise UserError(f"{where}: there are no keys below {tree.where}")
    if path.startswith("*."):
        for child in children.values():
            _assign(child, path[2:], Tree(value.value, value.where), where)
        return
    # names may have dots in them: the longest that is there
    for name in sorted(children, key=len, reverse=True):
        if path == name:
            children[name] = value
            if value.value is None:
                del children[name]
            return
        if path.startswith(f"{name}."):
            _assign(children[name], path.removeprefix(f"{name}."), value, where)
            return
    # the schema knows whether such keys may be
    first, _, rest = path.partition(".")
    children[first] = Tree({}, where) if rest else value
    if rest:
        _assign(children[first], rest, value, where)


def _below(tree: Tree) -> Iterator[Tree]:
    children = tree.value.values() if isinstance(tree.value, dict) else tree.value
    for child in children if isinstance(children, list) else list(children or []):
        if isinstance(child, Tree):
            yield child
            yield from _below(child)


def _tree(node: yaml.Node, name: str) -> Tree:
    where = f"{name}, line {node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Tree] = {}
        for key, value in node.value:
            at = f"{name}, line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{at}: a key is one word")
            if key.value in found:
                raise UserError(f"{at}: {key.value!r} is given twice")
            child = _tree(value, name)
            child.where = at
            found[key.value] = child
        return Tree(found, where)
    if isinstance(node, yaml.SequenceNode):
        return Tree([_tree(child, name) for child in node.value], where)
    empty = node.tag == "tag:yaml.org,2002:null"
    return Tree(None if empty else node.value, where)
