"""The names of our tasks, groups and tags, read from the YAML files without importing lmms-eval."""

import re
from importlib.resources import files
from pathlib import Path


def tasks_dir() -> str:
    """The folder of our task YAMLs, as `--include_path` wants it."""
    return str(files("lmms_steer.tasks"))


def task_names() -> list[str]:
    """Every task, group and tag, sorted."""
    found = set()
    for path in Path(tasks_dir()).rglob("*.yaml"):
        found.update(
            re.findall(r"^(?:task|group|tag): *[\"']?([\w-]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
        )
    return sorted(found)
