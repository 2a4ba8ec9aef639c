"""Index lmms-eval's own and our task files quickly, and once: there are thousands of YAML files."""

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from lmms_steer.harness.task_files import tasks_dir

_KEEPS = "_lmms_steer_keeps"
"""Attribute of the function that keeps the indexes."""

ReadIndex = Callable[[Any, str], Any]
"""`TaskManager._get_task_and_group`: the tasks and groups in a folder."""


def cache_task_index() -> None:
    """Make lmms-eval index the installed task files once per process. A user's own may change, and are read anew."""
    from lmms_eval.tasks import TaskManager

    if hasattr(TaskManager._get_task_and_group, _KEEPS):
        return
    read = with_libyaml(TaskManager._get_task_and_group)
    indexes: dict[str, Any] = {}

    @functools.wraps(read)
    def _get_task_and_group(self: Any, task_dir: str) -> Any:
        if not _is_installed(task_dir):
            return read(self, task_dir)
        if task_dir not in indexes:
            indexes[task_dir] = read(self, task_dir)
        return copy.deepcopy(indexes[task_dir])

    setattr(_get_task_and_group, _KEEPS, True)
    TaskManager._get_task_and_group = _get_task_and_group


def with_libyaml(read: ReadIndex) -> ReadIndex:
    """Read the installed task files by libyaml; a user's own as lmms-eval does, for its error messages."""

    @functools.wraps(read)
    def _get_task_and_group(self: Any, task_dir: str) -> Any:
        if not _is_installed(task_dir):
            return read(self, task_dir)
        with _libyaml():
            return read(self, task_dir)

    return _get_task_and_group


def _is_installed(task_dir: str) -> bool:
    from lmms_eval import tasks

    return Path(task_dir) in (Path(str(tasks.__file__)).parent, Path(tasks_dir()))


@contextmanager
def _libyaml() -> Iterator[None]:
    """Give lmms-eval's reader of task files PyYAML's C loader, a sixth of the time of the loader in Python.

    lmms-eval 0.7.3 calls `yaml.add_constructor` and `yaml.full_load` (`lmms_eval.utils.load_yaml_config`).
    """
    from lmms_eval import utils

    if not yaml.__with_libyaml__ or utils.yaml is not yaml:
        yield
        return

    class Loader(yaml.CFullLoader):
        """Of its own, so that the constructors that lmms-eval adds are nobody else's."""

    utils.yaml = SimpleNamespace(
        add_constructor=Loader.add_constructor, full_load=functools.partial(yaml.load, Loader=Loader)
    )
    try:
        yield
    finally:
        utils.yaml = yaml
