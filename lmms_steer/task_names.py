"""The names of our tasks and groups, read from the YAML files without importing lmms-eval."""

import re
from importlib.resources import files
from pathlib import Path


def tasks_dir() -> str:
    """The folder of our task YAMLs, as `--include_path` wants it."""
    return str(files("lmms_steer.tasks"))


def task_names() -> list[str]:
    """Every task and group, sorted."""
    found = set()
    for path in Path(tasks_dir()).rglob("*.yaml"):
        named = re.search(r"^(?:task|group): *[\"']?([\w-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        if named is not None:
            found.add(named.group(1))
    return sorted(found)
