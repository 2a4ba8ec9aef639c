"""lmms-eval's index of tasks, whose thousands of files are read once per process."""

from pathlib import Path
from typing import Any

from lmms_steer.harness.task_files import tasks_dir
from lmms_steer.harness.task_index import cache_task_index


def task_manager(*folders: Path, include_defaults: bool = False, **settings: Any) -> Any:
    """lmms-eval's `TaskManager` of our tasks and those in `folders`; with `include_defaults` also of its own."""
    from lmms_eval.tasks import TaskManager

    cache_task_index()
    paths = [tasks_dir(), *map(str, folders)]
    return TaskManager(include_path=paths, include_defaults=include_defaults, **settings)
