"""A registry that other packages can add to: extraction methods, operations, search strategies, prompt formats.

Each room that is open to extension has one instance. An entry gets into it in one of three ways:

* a built-in module registers it when it is imported (`builtins`);
* a script calls the room's decorator (`@register_method("mine", …)`);
* an installed package declares an entry point of the registry's group. Its name is the entry's name, and its value is
  the object whose module registers the entry when it is imported:

      [project.entry-points."lmms_steer.methods"]
      mine = "my_package.steering:mine"

Entry points are imported when their entry is asked for, not before, so that listing names stays cheap.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from lmms_steer.errors import UserError, first_line, unknown_name

Entry = TypeVar("Entry")

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Registry(Generic[Entry]):
    """Named entries of one kind.

    Args:
        kind: what an entry is, in the singular, for messages ("method").
        group: the entry-point group of other packages' entries ("lmms_steer.methods").
        builtins: modules that register the built-in entries when they are imported.
    """

    def __init__(self, kind: str, group: str, builtins: tuple[str, ...] = ()) -> None:
        self.kind, self.group = kind, group
        self._builtins = list(builtins)
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> None:
        """Register an entry.

        Raises:
            ValueError: for a name that is taken, or is not lower-case letters, digits and underscores. (A name stands
                in specs, file names and command lines.)
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{self.kind} {name!r}: expected lower-case letters, digits and '_', a letter first")
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is already registered")
        self._entries[name] = entry

    def get(self, name: str) -> Entry:
        """The entry of a name.

        Raises:
            UserError: for an unknown name, with the nearest known one; for an entry point that cannot be loaded.
        """
        self._load_builtins()
        if name not in self._entries and name in self._entry_points:
            self._load(self._entry_points[name])
        if name not in self._entries:
            raise unknown_name(self.kind, name, self.names())
        return self._entries[name]

    def names(self) -> tuple[str, ...]:
        """Every known name: the built-in ones first, then other packages'."""
        self._load_builtins()
        return tuple(dict.fromkeys([*self._entries, *self._entry_points]))

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def entries(self) -> dict[str, Entry]:
        """Every entry by its name. Loads other packages' entries too."""
        return {name: self.get(name) for name in self.names()}

    def _load_builtins(self) -> None:
        while self._builtins:
            import_module(self._builtins.pop())

    def _load(self, point: EntryPoint) -> None:
        try:
            point.load()
        except Exception as error:
            raise UserError(
                f"the {self.kind} {point.name!r} of {_package(point)} cannot be loaded: {first_line(error)}"
            ) from error
        if point.name not in self._entries:
            raise UserError(
                f"{_package(point)} declares the {self.kind} {point.name!r} ({point.value}) and does not register it"
            )

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            if point.name in self._entries or point.name in found:
                other = _package(found[point.name]) if point.name in found else "lmms-steer"
                raise UserError(
                    f"the {self.kind} {point.name!r} is declared by {_package(point)} and by {other}: uninstall one"
                )
            found[point.name] = point
        return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
