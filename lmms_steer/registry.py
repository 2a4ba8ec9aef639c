"""A registry that other packages can extend: extraction methods, operations, sites, search strategies, prompt formats.

There is one instance for each kind of extension. Entries are added in three ways:

* a built-in module registers it when it is imported (`builtins`);
* a script uses the kind's decorator (`@register_method("mine", …)`);
* an installed package declares an entry point of the registry's group. Its name is the entry's name, and its value is
  the object whose module registers the entry when it is imported:

      [project.entry-points."lmms_steer.methods"]
      mine = "my_package.steering:mine"

An entry point is imported only when its entry is requested, so that listing the names is cheap.
"""

import logging
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from threading import RLock
from typing import Any, Generic, TypeVar

from lmms_steer._util.code import code_sha256, is_built_in
from lmms_steer.errors import UserError, first_line, unknown_name

Entry = TypeVar("Entry")

logger = logging.getLogger(__name__)
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_REGISTRIES: "list[Registry[Any]]" = []


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
        self._code: dict[str, str] = {}
        self._lock, self._is_loading = RLock(), False
        _REGISTRIES.append(self)

    def add(self, name: str, entry: Entry) -> None:
        """Register an entry.

        Raises:
            ValueError: for a name that is taken, or that contains anything but lower-case letters, digits and
                underscores: names are used in specs, file names and command lines.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{self.kind} {name!r}: expected lower-case letters, digits and '_', starting with a letter"
            )
        if name in self._entries:
            raise ValueError(f"{self.kind} {name!r} is already registered")
        self._entries[name] = entry
        function = getattr(entry, "function", None)
        if function is not None and not is_built_in(function):
            self._code[name] = code_sha256(function)

    def get(self, name: str) -> Entry:
        """Return the entry of a name.

        Raises:
            UserError: for an unknown name, with the nearest known one; for an entry point that cannot be loaded, or
                that two packages declare.
        """
        self._load_builtins()
        if name not in self._entries and name in self._entry_points:
            self._load(name, self._entry_points[name])
        if name not in self._entries:
            raise unknown_name(self.kind, name, self.names())
        return self._entries[name]

    def code(self, name: str) -> str | None:
        """A hash of the code of an entry's function; None for a built-in one, and for a name that is not loaded."""
        return self._code.get(name) if name in self._entries else None

    def names(self) -> tuple[str, ...]:
        """All known names: first the built-in ones, then those of other packages."""
        self._load_builtins()
        return tuple(dict.fromkeys([*self._entries, *self._entry_points]))

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def entries(self) -> dict[str, Entry]:
        """All entries by name. This loads the entries of other packages; a broken one is left out with a warning."""
        found = {}
        for name in self.names():
            try:
                found[name] = self.get(name)
            except UserError as error:
                logger.warning("%s", error)
        return found

    def loaded(self) -> dict[str, Entry]:
        """The entries that are registered by now: the built-in ones, and others that were imported."""
        self._load_builtins()
        return dict(self._entries)

    def _load_builtins(self) -> None:
        if not self._builtins:
            return
        # other threads wait here until all built-in modules are imported
        with self._lock:
            if self._is_loading:
                # a built-in module asks while it is imported
                return
            self._is_loading = True
            try:
                while self._builtins:
                    self._import_builtin(self._builtins[0])
                    # only now, so that a module that cannot be imported is tried again
                    self._builtins.pop(0)
            finally:
                self._is_loading = False

    def _import_builtin(self, module: str) -> None:
        try:
            import_module(module)
        except ValueError as error:
            # a script may register its entry before the built-in ones are loaded
            raise UserError(f"{first_line(error)}: it is the name of a built-in {self.kind}, rename yours") from error

    def _load(self, name: str, points: list[EntryPoint]) -> None:
        if len(points) > 1:
            packages = " and by ".join(_package(point) for point in points)
            raise UserError(f"the {self.kind} {name!r} is declared by {packages}: uninstall one")
        point = points[0]
        known = [(registry, set(registry._entries)) for registry in _REGISTRIES]
        try:
            point.load()
        except Exception as error:
            for registry, names in known:
                registry._forget_unfinished(set(registry._entries) - names, point.module)
            raise UserError(
                f"the {self.kind} {name!r} of {_package(point)} cannot be loaded: {first_line(error)}"
            ) from error
        if name not in self._entries:
            raise UserError(
                f"{_package(point)} declares the {self.kind} {name!r} ({point.value}) but does not register it"
            )

    def _forget_unfinished(self, names: set[str], module: str) -> None:
        """Remove entries of modules whose import failed: it is tried again, and would register them twice.

        Args:
            names: the entries that were added meanwhile.
            module: where an entry is from that does not say so itself.
        """
        for name in names:
            function = getattr(self._entries[name], "function", None)
            if getattr(function, "__module__", module) not in sys.modules:
                del self._entries[name]
                self._code.pop(name, None)

    @cached_property
    def _entry_points(self) -> dict[str, list[EntryPoint]]:
        """Other packages' entry points by name, without those whose names cannot be registered."""
        found: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            # a package's module that was imported before has registered its own entry already
            if not _NAME.fullmatch(point.name) or (point.name in self._entries and point.module not in sys.modules):
                reason = "is taken" if point.name in self._entries else "is not a valid name"
                logger.warning("ignoring the %s %r of %s: it %s", self.kind, point.name, _package(point), reason)
            else:
                found.setdefault(point.name, []).append(point)
        return found


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value
