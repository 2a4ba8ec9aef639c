"""Names of tasks, groups and tags, ours and lmms-eval's.

They are read from the task files as text, because importing lmms-eval's index takes ten seconds.
"""

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from lmms_steer._util.io import shipped_folder
from lmms_steer.errors import UserError, shorten, unknown_name

Names = dict[str, tuple[str, Path]]
"""Name ▸ its kind (`task`, `group` or `tag`) and a file that declares it."""

_DECLARATION = re.compile(r"^[\"']?(task|group|tag)[\"']?[ \t]*:([^\n]*)((?:\n[ \t]*-.*)*)", re.MULTILINE)
_NAME = re.compile(r"\w[^\s,\"'\[\]{}:]*")


def tasks_dir() -> str:
    """The folder of our task YAMLs, as `--include_path` wants it."""
    return str(shipped_folder("tasks"))


def our_tasks() -> Names:
    """The names that this package's task files declare."""
    return _installed_tasks_in(Path(tasks_dir()))


def harness_tasks() -> Names:
    """The names that lmms-eval's task files declare: all in its index, and a few that are parts of groups only."""
    spec = find_spec("lmms_eval")
    folders = spec.submodule_search_locations if spec else None
    return _all_names_in(Path(folders[0]) / "tasks") if folders else {}


def tasks_in(root: Path) -> Names:
    """The names that the files of a folder declare: tasks and groups with a file of their own, and tags.

    They are read anew each time, because a user's files change while a notebook runs.
    """
    found: Names = {}
    for kind, name, own_file, path in _all_declarations(root):
        # a name may be a task or group and a tag: the task or group comes first
        if own_file and kind != "tag":
            found[name] = (kind, path)
        elif kind == "tag":
            found.setdefault(name, (kind, path))
    return found


_installed_tasks_in = cache(tasks_in)


@cache
def _all_names_in(root: Path) -> Names:
    """As `tasks_in`, of an installed folder, and the names that only stand in lists, such as the members of a group."""
    listed = {name: (kind, path) for kind, name, _, path in _all_declarations(root)}
    return listed | tasks_in(root)


def kind_of(name: str, include_path: str | None = None) -> str | None:
    """The kind of a name: `task`, `group` or `tag`; None if it is unknown.

    Args:
        name: as in lmms-eval's `--tasks`.
        include_path: the user's own folder of tasks.
    """
    return next((names[name][0] for names in _folders(include_path) if name in names), None)


def task_file(name: str, include_path: str | None = None) -> tuple[str, Path]:
    """The kind of a name and the file that declares it, for a name that `kind_of` knows."""
    return next(names[name] for names in _folders(include_path) if name in names)


def tasks_with_tag(tag: str, include_path: str | None = None) -> list[Path]:
    """The files of all tasks with a tag."""
    files = {path for names in _folders(include_path) for kind, path in names.values() if kind == "task"}
    return sorted(path for path in files if any(found[:2] == ("tag", tag) for found in _declarations(path)))


def check_task(name: str, include_path: str | None = None) -> None:
    """Check that a name exists and is not ambiguous.

    Args:
        name: as in lmms-eval's `--tasks`.
        include_path: the user's own folder of tasks.

    Raises:
        UserError: for an unknown name, with the nearest known one; for a name of the user's that is already taken.
    """
    if kind_of(name, include_path) is None and "," in name:
        raise UserError(f"{shorten(name)} are several tasks: give one")
    if kind_of(name, include_path) is None:
        raise unknown_name("task", name, {known for names in _folders(include_path) for known in names})
    if include_path is not None and name in tasks_in(Path(include_path)) and kind_of(name) is not None:
        # lmms-eval would use the other one
        owner = "this package" if name in our_tasks() else "lmms-eval"
        raise UserError(f"{name} of {include_path} is also a {kind_of(name)} of {owner}: rename yours")


def is_test_task(task: str, split: str) -> bool:
    """Whether results are reported on a task's questions.

    So they are if `held_out_task` has another task for choosing, or by the names of the task and its split.
    """
    if re.search(r"(?:^|_)select(?:_|$)", task):
        return False
    named = "test" in split.lower() or re.search(r"(?:^|_)test(?:_|$)", task) is not None
    return named or held_out_task(task) is not None


def held_out_task(task: str) -> str | None:
    """The task of ours that asks the questions which this one, of ours too, should not be chosen on; None without."""
    parts = re.fullmatch(r"(.*?)(?:_test)?((?:_ll|_prompted|_prompted_paper)?)", task)
    name = f"{parts[1]}_select{parts[2]}" if parts else ""
    return name if name in our_tasks() and "_select" not in task else None


def _folders(include_path: str | None) -> Iterator[Names]:
    if include_path is not None:
        yield tasks_in(Path(include_path))
    yield our_tasks()
    yield harness_tasks()


def _all_declarations(root: Path) -> Iterator[tuple[str, str, bool, Path]]:
    # files that others include end in `_yaml` and may declare tags
    for path in sorted(root.rglob("*yaml")):
        if path.is_file():
            yield from ((*declaration, path) for declaration in _declarations(path))


def _declarations(path: Path) -> Iterator[tuple[str, str, bool]]:
    """Kind and name of each declaration, and whether it stands alone, so that the file is the task's or group's own."""
    for kind, line, listed in _DECLARATION.findall(path.read_text(encoding="utf-8", errors="replace")):
        own_file = not listed and "[" not in line
        for name in _NAME.findall(re.sub("#.*", "", line + listed)):
            if name not in ("task", "group"):
                yield kind, name, own_file
