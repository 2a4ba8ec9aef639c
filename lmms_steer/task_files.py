"""Tasks, groups and tags, ours and lmms-eval's, read from their YAML as text: to import its index takes ten seconds."""

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from lmms_steer.errors import UserError, unknown
from lmms_steer.shipped import shipped

Names = dict[str, tuple[str, Path]]
"""Name ▸ `task`, `group` or `tag`, and a file that says it."""

_TOLD = re.compile(r"^[\"']?(task|group|tag)[\"']?[ \t]*:([^\n]*)((?:\n[ \t]*-.*)*)", re.MULTILINE)
_NAME = re.compile(r"\w[^\s,\"'\[\]{}:]*")


def tasks_dir() -> str:
    """The folder of our task YAMLs, as `--include_path` wants it."""
    return str(shipped("tasks"))


def ours() -> Names:
    """Those that ship."""
    return names_in(Path(tasks_dir()))


def theirs() -> Names:
    """lmms-eval's own: every name that its index has, and a few that are parts of groups only."""
    spec = find_spec("lmms_eval")
    where = spec.submodule_search_locations if spec else None
    return _listed_in(Path(where[0]) / "tasks") if where else {}


@cache
def names_in(root: Path) -> Names:
    """Those that a folder's files define."""
    found: Names = {}
    for kind, name, alone, path in _all_told(root):
        # one that is a tag too is what its own file says
        if alone and kind != "tag":
            found[name] = (kind, path)
        elif kind == "tag":
            found.setdefault(name, (kind, path))
    return found


@cache
def _listed_in(root: Path) -> Names:
    listed = {name: (kind, path) for kind, name, _, path in _all_told(root)}
    return listed | names_in(root)


def kind(name: str, include_path: str | None = None) -> str | None:
    """`task`, `group` or `tag`; None for what is none of them.

    Args:
        name: of lmms-eval's `--tasks`.
        include_path: the user's own folder of tasks.
    """
    return next((names[name][0] for names in _folders(include_path) if name in names), None)


def file_of(name: str, include_path: str | None = None) -> tuple[str, Path]:
    """As `kind`, with the file; for a name that `kind` knows."""
    return next(names[name] for names in _folders(include_path) if name in names)


def tagged(tag: str, include_path: str | None = None) -> list[Path]:
    """The files of the tasks with a tag."""
    files = {path for names in _folders(include_path) for kind, path in names.values() if kind == "task"}
    return sorted(path for path in files if any(told[:2] == ("tag", tag) for told in _told(path)))


def check(name: str, include_path: str | None = None) -> None:
    """
    Args:
        name, include_path: as of `kind`.

    Raises:
        UserError: for a name that nobody has, with the nearest; for one of the user's that is taken.
    """
    if kind(name, include_path) is None:
        raise unknown("task", name, {known for names in _folders(include_path) for known in names})
    if include_path is not None and name in names_in(Path(include_path)) and kind(name) is not None:
        # lmms-eval would ask the other
        whose = "this package" if name in ours() else "lmms-eval"
        raise UserError(f"{name} of {include_path} is also a {kind(name)} of {whose}: rename yours")


def _folders(include_path: str | None) -> Iterator[Names]:
    if include_path is not None:
        yield names_in(Path(include_path))
    yield ours()
    yield theirs()


def _all_told(root: Path) -> Iterator[tuple[str, str, bool, Path]]:
    # files that others include end in `_yaml` and may hold their tags
    for path in sorted(root.rglob("*yaml")):
        if path.is_file():
            yield from ((*told, path) for told in _told(path))


def _told(path: Path) -> Iterator[tuple[str, str, bool]]:
    """Kind and name, and whether the file is that task's or group's own."""
    for kind, line, listed in _TOLD.findall(path.read_text(encoding="utf-8", errors="replace")):
        alone = not listed and "[" not in line
        for name in _NAME.findall(re.sub("#.*", "", line + listed)):
            if name not in ("task", "group"):
                yield kind, name, alone
