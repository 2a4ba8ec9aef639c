"""Tasks, groups and tags, ours and lmms-eval's, read from their YAML as text: to import its index takes ten seconds."""

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from lmms_steer._util.io import shipped_folder
from lmms_steer.errors import UserError, unknown_name

Names = dict[str, tuple[str, Path]]
"""Name ▸ `task`, `group` or `tag`, and a file that says it."""

_TOLD = re.compile(r"^[\"']?(task|group|tag)[\"']?[ \t]*:([^\n]*)((?:\n[ \t]*-.*)*)", re.MULTILINE)
_NAME = re.compile(r"\w[^\s,\"'\[\]{}:]*")


def tasks_dir() -> str:
    """The folder of our task YAMLs, as `--include_path` wants it."""
    return str(shipped_folder("tasks"))


def our_tasks() -> Names:
    """Those that ship."""
    return tasks_in(Path(tasks_dir()))


def harness_tasks() -> Names:
    """lmms-eval's own: every name that its index has, and a few that are parts of groups only."""
    spec = find_spec("lmms_eval")
    where = spec.submodule_search_locations if spec else None
    return _listed_tasks_in(Path(where[0]) / "tasks") if where else {}


@cache
def tasks_in(root: Path) -> Names:
    """Those that a folder's files define."""
    found: Names = {}
    for kind_of, name, alone, path in _all_declared(root):
        # one that is a tag too is what its own file says
        if alone and kind_of != "tag":
            found[name] = (kind_of, path)
        elif kind_of == "tag":
            found.setdefault(name, (kind_of, path))
    return found


@cache
def _listed_tasks_in(root: Path) -> Names:
    listed = {name: (kind_of, path) for kind_of, name, _, path in _all_declared(root)}
    return listed | tasks_in(root)


def kind_of(name: str, include_path: str | None = None) -> str | None:
    """`task`, `group` or `tag`; None for what is none of them.

    Args:
        name: of lmms-eval's `--tasks`.
        include_path: the user's own folder of tasks.
    """
    return next((names[name][0] for names in _folders(include_path) if name in names), None)


def task_file(name: str, include_path: str | None = None) -> tuple[str, Path]:
    """As `kind`, with the file; for a name that `kind` knows."""
    return next(names[name] for names in _folders(include_path) if name in names)


def tasks_with_tag(tag: str, include_path: str | None = None) -> list[Path]:
    """The files of the tasks with a tag."""
    files = {path for names in _folders(include_path) for kind_of, path in names.values() if kind_of == "task"}
    return sorted(path for path in files if any(told[:2] == ("tag", tag) for told in _declared(path)))


def check_task(name: str, include_path: str | None = None) -> None:
    """
    Args:
        name, include_path: as of `kind`.

    Raises:
        UserError: for a name that nobody has, with the nearest; for one of the user's that is taken.
    """
    if kind_of(name, include_path) is None:
        raise unknown_name("task", name, {known for names in _folders(include_path) for known in names})
    if include_path is not None and name in tasks_in(Path(include_path)) and kind_of(name) is not None:
        # lmms-eval would ask the other
        whose = "this package" if name in our_tasks() else "lmms-eval"
        raise UserError(f"{name} of {include_path} is also a {kind_of(name)} of {whose}: rename yours")


def _folders(include_path: str | None) -> Iterator[Names]:
    if include_path is not None:
        yield tasks_in(Path(include_path))
    yield our_tasks()
    yield harness_tasks()


def _all_declared(root: Path) -> Iterator[tuple[str, str, bool, Path]]:
    # files that others include end in `_yaml` and may hold their tags
    for path in sorted(root.rglob("*yaml")):
        if path.is_file():
            yield from ((*told, path) for told in _declared(path))


def _declared(path: Path) -> Iterator[tuple[str, str, bool]]:
    """Kind and name, and whether the file is that task's or group's own."""
    for kind_of, line, listed in _TOLD.findall(path.read_text(encoding="utf-8", errors="replace")):
        alone = not listed and "[" not in line
        for name in _NAME.findall(re.sub("#.*", "", line + listed)):
            if name not in ("task", "group"):
                yield kind_of, name, alone
