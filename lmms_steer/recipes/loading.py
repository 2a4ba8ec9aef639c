"""Load a recipe: find its file, lay overlays over it, set single keys, and validate the result.

Every mistake is reported with its file and line, and with the nearest name that would have been right.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ValidationError

from lmms_steer._util.io import is_folder, is_regular_file, shipped_folder, user_path
from lmms_steer._util.yaml import YamlNode, YamlSyntaxError, nodes_below, parse_yaml, read_yaml
from lmms_steer.errors import UserError, shorten, unknown_name
from lmms_steer.recipes.schema import Command, Method, Model, Recipe, Search, Study, System
from lmms_steer.recipes.validation import check_recipe

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_KINDS: dict[str | int, str] = {"models": "model", "methods": "method", "studies": "study"}
"""Parts of a recipe that hold things by name, and what each of them is called."""
_PARTS: dict[str | int, type[BaseModel]] = {
    "models": Model,
    "methods": Method,
    "studies": Study,
    "commands": Command,
    "systems": System,
    "search": Search,
}


MAX_OVERLAY_STEPS = 2_000_000
"""Limit of the product of the sizes of a recipe and an overlay, whose key `*` copies values under every key."""


def load_recipe(name: str, overlays: Sequence[str] = (), assignments: Iterable[str] = ()) -> tuple[str, Recipe]:
    """Load and validate a recipe.

    Args:
        name: a file, or the name of a recipe that ships (`tiny`).
        overlays: files, or names of overlays that ship (`stand_in`), which are laid over the recipe in this order.
        assignments: `KEY=VALUE`, applied after the overlays.

    Returns:
        The recipe's name, and the recipe.

    Raises:
        UserError: for the first mistake, with its line.
    """
    path = find_recipe(name)
    tree = _read_recipe(path)
    studies = _study_names(tree)
    for overlay in overlays:
        above = _read_recipe(find_recipe(overlay, "overlay"))
        if _count(tree) * _count(above) > MAX_OVERLAY_STEPS:
            raise UserError(f"the recipe {name!r} and the overlay {overlay!r} are too large to be laid over each other")
        lay_over(tree, above)
    for assignment in assignments:
        set_key(tree, assignment)
    _forget_studies(tree, studies - _study_names(tree))
    try:
        recipe = Recipe.model_validate(tree.untyped())
    except ValidationError as error:
        if name in shipped_overlays():
            raise UserError(f"{name} is laid over another recipe: lmms-steer run RECIPE --with {name}") from error
        raise _validation_error(tree, error.errors()) from error
    check_recipe(recipe, tree)
    return path.stem, recipe


def _study_names(tree: YamlNode) -> set[str]:
    """The names of a recipe's studies."""
    node = tree.value.get("studies") if isinstance(tree.value, dict) else None
    return set(node.value) if node is not None and isinstance(node.value, dict) else set()


def _forget_studies(tree: YamlNode, removed: set[str]) -> None:
    """Take studies that were removed out of the lists of systems, and systems that were for no other study."""
    systems = tree.value.get("systems") if isinstance(tree.value, dict) else None
    if not removed or systems is None or not isinstance(systems.value, list):
        return
    for system in list(systems.value):
        own = system.value.get("studies") if isinstance(system.value, dict) else None
        if own is None or own.value is None or isinstance(own.value, dict):
            continue
        names = own.value
        if isinstance(names, str):
            names = [YamlNode(text.strip(), own.where) for text in names.split(",")]
        own.value = [name for name in names if name.value not in removed]
        if names and not own.value:
            systems.value.remove(system)


def _count(tree: YamlNode) -> int:
    return 1 + sum(1 for _ in nodes_below(tree))


def find_recipe(name: str, kind: str = "recipe") -> Path:
    """The file of a recipe: a path, or the name of one that ships.

    Args:
        name: as typed.
        kind: `overlay` for a file to lay over a recipe; an unknown name is compared with those of its kind.

    Raises:
        UserError: where there is neither.
    """
    path = user_path(name)
    if is_regular_file(path):
        return path
    # the results of `smol` are in a folder of this name
    if is_folder(path) and name not in shipped_recipes():
        raise UserError(f"{name} is a folder: a recipe is a file, such as {name.rstrip('/')}.yaml")
    if path.suffix not in (".yaml", ".yml") and len(path.parts) == 1:
        if name not in shipped_recipes():
            raise unknown_name(kind, name, shipped_overlays() if kind == "overlay" else complete_recipes())
        return shipped_recipes()[name]
    raise UserError(f"no such recipe: {name!r}")


def shipped_recipes() -> dict[str, Path]:
    """The files of the recipes that ship with this package, overlays included, by name."""
    folder = shipped_folder("recipe_files")
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def complete_recipes() -> tuple[str, ...]:
    """Names of the recipes that ship and can be run by themselves; the other files are overlays."""
    return tuple(described_recipes())


def described_recipes() -> dict[str, str]:
    """The recipes of `complete_recipes` ▸ what each is about."""
    return {
        name: recipe.about for name, path in shipped_recipes().items() if (recipe := _read_complete(path)) is not None
    }


def _read_complete(path: Path) -> Recipe | None:
    try:
        return Recipe.model_validate(_read_recipe(path).untyped())
    except ValidationError:
        return None


def shipped_overlays() -> tuple[str, ...]:
    """Names of the overlays that ship."""
    return tuple(sorted(shipped_recipes().keys() - set(complete_recipes())))


def lay_over(tree: YamlNode, overlay: YamlNode, path: tuple[str, ...] = ()) -> None:
    """Put the overlay's values into the tree, key by key. Its key `*` stands for every existing key; null removes.

    Args:
        tree: the recipe, or a part of it, which is changed.
        overlay: what is laid over it.
        path: the keys that lead to this part.

    Raises:
        UserError: for a null at a key that no recipe can have there.
    """
    if not (isinstance(tree.value, dict) and isinstance(overlay.value, dict)):
        tree.value, tree.where, tree.tag = overlay.value, overlay.where, overlay.tag
        return
    for key, child in overlay.value.items():
        for name in list(tree.value) if key == "*" else [key]:
            if child.value is None:
                if name not in tree.value:
                    _check_key(path, name, child.where)
                tree.value.pop(name, None)
            elif name in tree.value:
                # a copy for each name, so that a later change to one does not change the others
                lay_over(tree.value[name], copy.deepcopy(child), (*path, name))
            else:
                tree.value[name] = child


def _check_key(path: tuple[str, ...], key: str, where: str) -> None:
    """Refuse a key that the schema does not know: in `{layers: 8,16}`, 16 is a key without a value.

    Names, such as those of models, are free: an overlay may remove one that only some recipes have.
    """
    if not path:
        part: type[BaseModel] = Recipe
    elif len(path) == 1 + (path[0] in _KINDS) and path[0] in _PARTS:
        part = _PARTS[path[0]]
    else:
        return
    if key not in part.model_fields:
        raise UserError(f"{where}: {unknown_name('key', key, part.model_fields)}")


def set_key(tree: YamlNode, assignment: str) -> None:
    """Apply one `--set`.

    Args:
        tree: the recipe, which is changed.
        assignment: `models.NAME.pretrained=PATH`. A `*` stands for every existing key; the value `null` removes the
            key.

    Raises:
        UserError: for something other than `KEY=VALUE`, or a path below a single value.
    """
    path, equals, text = assignment.partition("=")
    if not equals or not path:
        raise UserError(f"--set {assignment}: expected KEY=VALUE, as in --set models.NAME.pretrained=PATH")
    where = f"--set {assignment}"
    try:
        value = parse_yaml(text, where)
    except YamlSyntaxError:
        value = YamlNode(text, where)
    if value.value is None and text.strip().lower() not in ("null", "~"):
        # empty, or what YAML takes for a comment
        value = YamlNode(text, where)
    for node in (value, *nodes_below(value)):
        node.where = where
    if isinstance(value.value, dict):
        raise UserError(f"{where}: expected one value or a list; put several keys into a file for --with FILE")
    _assign(tree, path, value, where)


def _assign(tree: YamlNode, path: str, value: YamlNode, where: str) -> None:
    children = tree.value
    if not isinstance(children, dict):
        raise UserError(f"{where}: there are no keys below {tree.where}")
    first, _, rest = path.partition(".")
    if first == "*":
        for name, child in list(children.items()):
            own = YamlNode(value.value, value.where, value.tag)
            if rest:
                _assign(child, rest, own, where)
            else:
                _assign(tree, name, own, where)
        return
    # a name may contain dots: the longest existing key that fits
    for name in sorted(children, key=len, reverse=True):
        if path == name:
            children[name] = value
            if value.value is None:
                del children[name]
            return
        if path.startswith(f"{name}."):
            _assign(children[name], path.removeprefix(f"{name}."), value, where)
            return
    # a new key; the schema decides whether it is allowed
    children[first] = YamlNode({}, where) if rest else value
    if rest:
        _assign(children[first], rest, value, where)


def _read_recipe(path: Path) -> YamlNode:
    tree = read_yaml(path)
    if not isinstance(tree.value, dict):
        raise UserError(f"{path} is not a recipe: expected keys such as models:, methods: and studies:")
    return tree


def _validation_error(tree: YamlNode, mistakes: Sequence[ErrorDetails]) -> UserError:
    """The error for the first of the values that do not fit the schema."""
    # unknown keys first: a missing key may be a misspelt one
    details = min(mistakes, key=lambda mistake: mistake["type"] != "extra_forbidden")
    path = details["loc"]
    # but an unknown key of a misspelt model says less than the model's name
    siblings = [other["loc"] for other in mistakes if other["type"] == "missing" and other["loc"][:2] == path[:2]]
    misspelt = _misspelt_name(tree, siblings[0]) if siblings else None
    if misspelt is not None:
        return misspelt
    where = tree.at(path).where
    if details["type"] == "extra_forbidden":
        part = _PARTS[path[0]] if len(path) > 1 else Recipe
        return UserError(f"{where}: {unknown_name('key', path[-1], part.model_fields)}")
    if details["input"] is None and len(path) == 2 and path[0] in _KINDS and where.startswith("--set "):
        return UserError(f"{where}: {unknown_name(_KINDS[path[0]], path[1], _names_before(tree, path[0]))}")
    place = ".".join(map(str, path))
    if details["type"] == "missing":
        return UserError(f"{where}: {place} is missing")
    # a YAML file has no tuples and dictionaries
    message = re.sub(r"\btuple\b", "list", details["msg"], flags=re.IGNORECASE)
    message = re.sub(r"\bdictionary\b", "mapping", message, flags=re.IGNORECASE)
    return UserError(f"{where}: {place}: {message[0].lower()}{message[1:]}, not {shorten(repr(details['input']))}")


def _misspelt_name(tree: YamlNode, path: tuple[str | int, ...]) -> UserError | None:
    """The error for a `--set` that added an incomplete model or study, which usually is a misspelt existing name."""
    if len(path) <= 2 or path[0] not in ("models", "studies"):
        return None
    part, name, *missing = path
    where = tree.at(path[:2]).where
    if not where.startswith("--set "):
        return None
    kind, needed = _KINDS[part], ".".join(map(str, missing))
    unknown = unknown_name(kind, name, _names_before(tree, part))
    return UserError(f"{where}: {unknown}; a new {kind} also needs {needed}")


def _names_before(tree: YamlNode, part: str | int) -> list[str]:
    """The names in a part of the recipe that no `--set` added."""
    names = tree.at((part,)).value
    children = names.items() if isinstance(names, dict) else ()
    return [key for key, child in children if not child.where.startswith("--set ")]
