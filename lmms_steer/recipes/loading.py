"""A recipe's file ▸ `Recipe`: every mistake has its line, and the nearest name that would have been right."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lmms_steer._util.io import shipped_folder
from lmms_steer._util.yaml import YamlNode, nodes_below, parse_yaml, read_yaml
from lmms_steer.errors import UserError, unknown_name
from lmms_steer.recipes.schema import Command, Method, Model, Recipe, Search, Study
from lmms_steer.recipes.validation import check_names

_PARTS: dict[str, type[BaseModel]] = {
    "models": Model,
    "methods": Method,
    "studies": Study,
    "commands": Command,
    "search": Search,
}


def load_recipe(name: str, over: Sequence[str] = (), assignments: Iterable[str] = ()) -> tuple[str, Recipe]:
    """A recipe's name, and what it says.

    Args:
        name: a file, or the name of a recipe that ships (`tiny`).
        over: files, or names of those that ship (`stand_in`), laid over it in their order.
        assignments: `KEY=VALUE`, after those.

    Raises:
        UserError: for the first mistake, with its line.
    """
    path = find_recipe(name)
    found = _read_recipe(path)
    for file in over:
        overlay(found, _read_recipe(find_recipe(file)))
    for assignment in assignments:
        set_key(found, assignment)
    try:
        recipe = Recipe.model_validate(found.text())
    except ValidationError as error:
        # a key that is missing may be there, misspelt
        raise _validation_error(found, min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")) from error
    check_names(recipe, found)
    return path.stem, recipe


def overlay(tree: YamlNode, over: YamlNode) -> None:
    """Put `over`'s values into the tree, key by key; its key `*` stands for every key that is there, null removes."""
    if not (isinstance(tree.value, dict) and isinstance(over.value, dict)):
        tree.value, tree.where, tree.tag = over.value, over.where, over.tag
        return
    for key, child in over.value.items():
        for name in list(tree.value) if key == "*" else [key]:
            if child.value is None:
                tree.value.pop(name, None)
            elif name in tree.value:
                # a copy for each: what is set in one must not show in the others
                overlay(tree.value[name], copy.deepcopy(child))
            else:
                tree.value[name] = child


def set_key(tree: YamlNode, assignment: str) -> None:
    """`models.NAME.pretrained=PATH`; a `*` stands for every key that is there, `null` removes one.

    Raises:
        UserError: for a path that leads nowhere.
    """
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise UserError(f"--set {assignment}: expected KEY=VALUE, as in --set models.NAME.pretrained=PATH")
    where = f"--set {assignment}"
    try:
        value = parse_yaml(text, where)
    except UserError:
        value = YamlNode(text, where)
    if value.value is None and text.strip() == "":
        value = YamlNode(text, where)
    for found in (value, *nodes_below(value)):
        found.where = where
    if not isinstance(value.value, dict):
        _assign(tree, path, value, where)
    else:
        raise UserError(f"{where}: expected one value or a list; several keys go into a file: --with FILE")


def _assign(tree: YamlNode, path: str, value: YamlNode, where: str) -> None:
    children = tree.value
    if not isinstance(children, dict):
        raise UserError(f"{where}: there are no keys below {tree.where}")
    if path.startswith("*."):
        for child in children.values():
            _assign(child, path[2:], YamlNode(value.value, value.where, value.tag), where)
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
    children[first] = YamlNode({}, where) if rest else value
    if rest:
        _assign(children[first], rest, value, where)


def shipped_recipes() -> dict[str, Path]:
    """Name ▸ file of the recipes that come with the package, overlays included."""
    folder = shipped_folder("recipe_files")
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """A file, or one that ships.

    Raises:
        UserError: when there is neither.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise UserError(f"{name} is a folder: a recipe is a file, such as {name.rstrip('/')}.yaml")
    if path.suffix not in (".yaml", ".yml") and len(path.parts) == 1:
        if name not in shipped_recipes():
            raise unknown_name("recipe", name, shipped_recipes())
        return shipped_recipes()[name]
    raise UserError(f"no such recipe: {name!r}")


def _read_recipe(path: Path) -> YamlNode:
    found = read_yaml(path)
    if not isinstance(found.value, dict):
        raise UserError(f"{path} is not a recipe: expected keys such as models:, methods: and studies:")
    return found


def _validation_error(found: YamlNode, error: Any) -> UserError:
    path = tuple(error["loc"])
    where = found.at(path).where
    if error["type"] == "extra_forbidden":
        known = _PARTS[path[0]] if len(path) > 1 else Recipe
        return UserError(f"{where}: {unknown_name('key', path[-1], known.model_fields)}")
    place = ".".join(map(str, path))
    if error["type"] == "missing":
        return _new_name(found, path) or UserError(f"{where}: {place} is missing")
    return UserError(f"{where}: {place}: {error['msg'][0].lower()}{error['msg'][1:]}, not {error['input']!r}")


def _new_name(found: YamlNode, path: tuple[Any, ...]) -> UserError | None:
    """A `--set` of a name that was not there makes a new one, which most often is a misspelt old one."""
    part, name, *lacks = path if len(path) > 2 else (None, None)
    where = found.at(path[:2]).where
    if part not in ("models", "studies") or not where.startswith("--set "):
        return None
    names = found.at((part,)).value
    there = names.items() if isinstance(names, dict) else ()
    old = [key for key, child in there if not child.where.startswith("--set ")]
    kind = "model" if part == "models" else "study"
    return UserError(f"{where}: {unknown_name(kind, name, old)}; a new one needs {'.'.join(map(str, lacks))} too")
