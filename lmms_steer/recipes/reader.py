"""A recipe's file ▸ `Recipe`: every mistake has its line, and the nearest name that would have been right."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lmms_steer.errors import UserError, unknown
from lmms_steer.recipes import tree
from lmms_steer.recipes.known import check_names
from lmms_steer.recipes.schema import Command, Method, Model, Recipe, Search, Study
from lmms_steer.shipped import shipped as shipped_folder

_PARTS: dict[str, type[BaseModel]] = {
    "models": Model,
    "methods": Method,
    "studies": Study,
    "commands": Command,
    "search": Search,
}


def load(name: str, over: Sequence[str] = (), assignments: Iterable[str] = ()) -> tuple[str, Recipe]:
    """A recipe's name, and what it says.

    Args:
        name: a file, or the name of a recipe that ships (`tiny`).
        over: files, or names of those that ship (`stand_in`), laid over it in their order.
        assignments: `KEY=VALUE`, after those.

    Raises:
        UserError: for the first mistake, with its line.
    """
    path = find(name)
    found = tree.read(path)
    for file in over:
        tree.lay_over(found, tree.read(find(file)))
    for assignment in assignments:
        tree.set_key(found, assignment)
    try:
        recipe = Recipe.model_validate(found.plain())
    except ValidationError as error:
        # a key that is missing may be there, misspelt
        raise _told(found, min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")) from error
    check_names(recipe, found)
    return path.stem, recipe


def shipped() -> dict[str, Path]:
    """Name ▸ file of the recipes that come with the package, overlays included."""
    folder = shipped_folder("recipe_files")
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(name: str) -> Path:
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
        if name not in shipped():
            raise unknown("recipe", name, shipped())
        return shipped()[name]
    raise UserError(f"no such recipe: {name!r}")


def _told(found: tree.Tree, error: Any) -> UserError:
    path = tuple(error["loc"])
    where = found.at(path).where
    if error["type"] == "extra_forbidden":
        known = _PARTS[path[0]] if len(path) > 1 else Recipe
        return UserError(f"{where}: {unknown('key', path[-1], known.model_fields)}")
    place = ".".join(map(str, path))
    if error["type"] == "missing":
        return _new_name(found, path) or UserError(f"{where}: {place} is missing")
    return UserError(f"{where}: {place}: {error['msg'][0].lower()}{error['msg'][1:]}, not {error['input']!r}")


def _new_name(found: tree.Tree, path: tuple[Any, ...]) -> UserError | None:
    """A `--set` of a name that was not there makes a new one, which most often is a misspelt old one."""
    part, name, *lacks = path if len(path) > 2 else (None, None)
    where = found.at(path[:2]).where
    if part not in ("models", "studies") or not where.startswith("--set "):
        return None
    names = found.at((part,)).value
    there = names.items() if isinstance(names, dict) else ()
    old = [key for key, child in there if not child.where.startswith("--set ")]
    kind = "model" if part == "models" else "study"
    return UserError(f"{where}: {unknown(kind, name, old)}; a new one needs {'.'.join(map(str, lacks))} too")
