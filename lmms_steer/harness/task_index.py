"""Keep lmms-eval's index of its own and our task files: reading their thousands of YAML files takes seconds."""

import copy
import functools
from pathlib import Path
from typing import Any

from lmms_steer.harness.task_files import tasks_dir


def cache_task_index() -> None:
    """Make lmms-eval index the installed task files once per process. A user's own may change, and are read anew."""
    from lmms_eval import tasks

    read = tasks.TaskManager._get_task_and_group
    if hasattr(read, "__wrapped__"):
        return
    installed = {Path(str(tasks.__file__)).parent, Path(tasks_dir())}
    indexes: dict[str, Any] = {}

    @functools.wraps(read)
    def _get_task_and_group(self: Any, task_dir: str) -> Any:
        if Path(task_dir) not in installed:
            return read(self, task_dir)
        if task_dir not in indexes:
            indexes[task_dir] = read(self, task_dir)
        return copy.deepcopy(indexes[task_dir])

    tasks.TaskManager._get_task_and_group = _get_task_and_group
