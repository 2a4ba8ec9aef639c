"""Which datasets of a task are not on this disk, told from its files; nothing is fetched."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from lmms_steer.errors import UserError, first_line
from lmms_steer.harness.task_files import kind_of, task_file, tasks_dir, tasks_with_tag


def missing_datasets(name: str, include_path: str | None = None) -> Iterator[str]:
    """A line for each dataset of a task, group or tag that is not on this disk, or file that cannot be read.

    Args:
        name, include_path: as of `kind`, which knows them.
    """
    files: list[Path] = []
    try:
        _collect(name, include_path, files, {name})
        for path in files:
            dataset = read_task_file(path).get("dataset_path")
            if isinstance(dataset, str) and "/" in dataset and not (Path(dataset).exists() or _in_cache(dataset)):
                yield f"{dataset} is {absence_note()}"
    except UserError as error:
        yield str(error)


def absence_note() -> str:
    """What becomes of what the Hub has, and this disk has not."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return f"not on this disk, {'and HF_HUB_OFFLINE is set' if HF_HUB_OFFLINE else 'will be fetched from the Hub'}"


def _collect(name: str, include_path: str | None, files: list[Path], groups: set[str]) -> None:
    said, path = task_file(name, include_path)
    if said == "task":
        files.append(path)
    if said == "tag":
        files += tasks_with_tag(name, include_path)
    if said == "group":
        for member in _members(path):
            if member not in groups and kind_of(member, include_path):
                groups.add(member)
                _collect(member, include_path, files, groups)


def _members(path: Path) -> list[str]:
    listed = read_task_file(path).get("task") or []
    members = listed if isinstance(listed, list) else [listed]
    return [str(m.get("task") or m.get("group")) if isinstance(m, dict) else str(m) for m in members]


def _in_cache(dataset: str) -> bool:
    from huggingface_hub.constants import HF_HUB_CACHE

    return any(Path(HF_HUB_CACHE, f"datasets--{dataset.replace('/', '--')}", "snapshots").glob("*"))


class _Loader(yaml.SafeLoader):
    """`!function` as what it names in our own task folders, None in others: their code is not run for a look."""


def _function(loader: Any, node: Any) -> Any:
    folder = Path(loader.name).parent
    module, _, attribute = str(node.value).rpartition(".")
    if folder.parent != Path(tasks_dir()) or attribute.partition("_")[0] != "path":
        return None
    return getattr(import_module(f"lmms_steer.tasks.{folder.name}.{module}"), attribute)


_Loader.add_constructor("!function", _function)


def read_task_file(path: Path, includers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a task's file says, with what it includes.

    Raises:
        UserError: for what is no YAML, or is not there.
    """
    if path in includers:
        raise UserError(f"{path} includes itself")
    try:
        with path.open(encoding="utf-8") as file:
            said = yaml.load(file, Loader=_Loader) or {}  # noqa: S506  a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read as a task: {first_line(error)}") from error
    if not isinstance(said, dict):
        raise UserError(f"{path} cannot be read as a task: it holds no keys")
    first: dict[str, Any] = {}
    includes = said.pop("include", [])
    for name in reversed([includes] if isinstance(includes, str) else includes):
        first.update(read_task_file(path.parent / name, (*includers, path)))
    return first | said
