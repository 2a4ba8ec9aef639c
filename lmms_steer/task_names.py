"""The names of tasks, groups and tags, read from the YAML files: to import lmms-eval takes ten seconds."""

import re
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from lmms_steer.errors import unknown

_TOLD = re.compile(r"^[\"']?(?:task|group|tag)[\"']?[ \t]*:(.*(?:\n[ \t]*-.*)*)", re.MULTILINE)


def tasks_dir() -> str:
    """The folder of our task YAMLs, as `--include_path` wants it."""
    return str(files("lmms_steer.tasks"))


def task_names() -> list[str]:
    """Every task, group and tag of ours, sorted."""
    found = set()
    for path in Path(tasks_dir()).rglob("*.yaml"):
        found.update(
            re.findall(r"^(?:task|group|tag): *[\"']?([\w-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        )
    return sorted(found)


@cache
def their_tasks() -> frozenset[str]:
    """lmms-eval's own: every name that its index has, and a few that are parts of groups only."""
    spec = find_spec("lmms_eval")
    root = Path(spec.submodule_search_locations[0]) / "tasks" if spec and spec.submodule_search_locations else None
    names: set[str] = set()
    # files that others include end in `_yaml` and may hold their tags
    for path in root.rglob("*yaml") if root else ():
        for told in _TOLD.findall(path.read_text(encoding="utf-8", errors="replace")):
            names.update(re.findall(r"\w[^\s,\"'\[\]:]*", re.sub("#.*", "", told)))
    return frozenset(names)


def check_task(name: str) -> None:
    """
    Raises:
        UserError: for a name that is neither ours nor lmms-eval's.
    """
    ours = task_names()
    if name not in ours and name not in their_tasks():
        raise unknown("task", name, {*ours, *their_tasks()})
