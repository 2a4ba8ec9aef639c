"""A mistake in a recipe, told with the line where it stands."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches

from lmms_steer.errors import UserError, unknown
from lmms_steer.recipes.tree import Tree

Path = tuple[str | int, ...]
"""Keys and places from the recipe's top."""


def at(found: Tree, path: Path, error: UserError) -> UserError:
    """The error, with the line of a part before it."""
    return UserError(f"{found.at(path).where}: {error}")


def known(found: Tree, path: Path, kind: str, names: Iterable[str], among: Iterable[str]) -> None:
    """
    Raises:
        UserError: for the first name that is not among them.
    """
    there = list(among)
    for name in names:
        if name not in there:
            raise at(found, path, unknown(kind, name, there))


def checked(found: Tree, path: Path, read: Callable[..., object], *args: str | int | None) -> None:
    """
    Raises:
        UserError: what `read` raises.
    """
    try:
        read(*args)
    except UserError as error:
        raise at(found, path, error) from error


def near(name: str, among: Iterable[str]) -> list[str]:
    """The few that a user may have meant, of hundreds."""
    return get_close_matches(name, sorted(among), n=6, cutoff=0.4)
