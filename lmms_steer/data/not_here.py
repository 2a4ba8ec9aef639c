"""Which datasets of a task are not on this disk, told from its files; nothing is fetched."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from lmms_steer.errors import UserError
from lmms_steer.task_files import file_of, kind, tagged, tasks_dir


def not_here(name: str, include_path: str | None = None) -> Iterator[str]:
    """A line for each dataset of a task, group or tag that is not on this disk.

    Args:
        name, include_path: as of `kind`, which knows them.
    """
    said, path = file_of(name, include_path)
    if said == "task" and (line := _dataset_not_here(path)):
        yield line
    if said == "tag":
        yield from filter(None, map(_dataset_not_here, tagged(name, include_path)))
    if said == "group":
        for member in _members(path):
            if member != name and kind(member, include_path):
                yield from not_here(member, include_path)


def _members(path: Path) -> list[str]:
    listed = _read(path).get("task") or []
    members = listed if isinstance(listed, list) else [listed]
    return [str(m.get("task") or m.get("group")) if isinstance(m, dict) else str(m) for m in members]


def _dataset_not_here(path: Path) -> str | None:
    try:
        dataset = _read(path).get("dataset_path")
    except UserError as error:
        return str(error)
    if not isinstance(dataset, str) or "/" not in dataset or Path(dataset).exists() or _in_cache(dataset):
        return None
    return f"{dataset} is not on this disk and will be fetched from the Hub"


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


def _read(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8") as file:
        said: dict[str, Any] = yaml.load(file, Loader=_Loader) or {}  # noqa: S506  a SafeLoader
    first: dict[str, Any] = {}
    includes = said.pop("include", [])
    for name in reversed([includes] if isinstance(includes, str) else includes):
        first.update(_read(path.parent / name))
    return first | said
