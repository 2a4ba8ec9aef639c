"""Find out which datasets of a task are not on this disk, from its files alone; nothing is downloaded."""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from glob import glob, has_magic
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from lmms_steer._util.io import read_limited
from lmms_steer._util.yaml import MAX_BYTES, VALUE_ERRORS, BoundedComposer
from lmms_steer.errors import UserError, reason
from lmms_steer.harness.task_files import kind_of, task_file, tasks_dir, tasks_with_tag

_LOCAL_BUILDERS = ("arrow", "audiofolder", "csv", "imagefolder", "json", "pandas", "parquet", "text", "videofolder")
"""Values of `dataset_path` with which `datasets` reads files of this disk."""


def missing_datasets(name: str, include_path: str | None = None) -> Iterator[str]:
    """The datasets of a task, group or tag that are not on this disk, and the first file that cannot be read.

    Args:
        name: of an existing task, group or tag.
        include_path: the user's own folder of tasks.

    Yields:
        A line for each of them.
    """
    files: list[Path] = []
    try:
        _collect_files(name, include_path, files, {name})
        for path in files:
            dataset = read_task_file(path).get("dataset_path")
            if isinstance(dataset, str) and "/" in dataset and not (Path(dataset).exists() or _in_cache(dataset)):
                yield f"{dataset} is {absence_note()}"
    except UserError as error:
        yield str(error)


def copies_read(name: str, manifests: Collection[Path], include_path: str | None = None) -> Iterator[Path]:
    """Which local copies a task, group or tag reads; none for a name that is unknown or a file that cannot be read.

    Args:
        name: of the task, group or tag.
        manifests: those of all local copies.
        include_path: the user's own folder of tasks. A task there whose data a function of its own finds may read any
            copy.
    """
    files: list[Path] = []
    with suppress(UserError):
        if kind_of(name, include_path):
            _collect_files(name, include_path, files, {name})
    for path in files:
        keys: dict[str, Any] = {}
        with suppress(UserError):
            keys = read_task_file(path)
        if keys.get("dataset_path", "") is None:
            yield from manifests
        kwargs = keys.get("dataset_kwargs")
        read = str(kwargs.get("data_files")) if isinstance(kwargs, dict) else ""
        yield from (manifest for manifest in manifests if f"{manifest.parent}{os.sep}" in read)


def files_read(name: str, include_path: str) -> Iterator[Path]:
    """The files and folders outside of the user's folder of tasks that a task, group or tag of theirs reads.

    Args:
        name: of the task, group or tag; an unknown one, and a file that cannot be read, reads nothing.
        include_path: the user's own folder of tasks.

    Yields:
        What `data_files`, `data_dir` and `dataset_path` name on this disk, whether it is there or not.
    """
    files: list[Path] = []
    with suppress(UserError):
        if kind_of(name, include_path):
            _collect_files(name, include_path, files, {name})
    root = Path(include_path)
    for path in files:
        if path.is_relative_to(root):
            keys: dict[str, Any] = {}
            with suppress(UserError):
                keys = read_task_file(path)
            found = _local_data(keys, path.parent)
            yield from (one for one in found if not one.resolve().is_relative_to(root.resolve()))


def absence_note() -> str:
    """Says of a repository of the Hub that it is not on this disk, and whether it will be downloaded."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    return f"not on this disk, {'and HF_HUB_OFFLINE is set' if HF_HUB_OFFLINE else 'will be fetched from the Hub'}"


def read_task_file(path: Path, includers: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a task file, with those of the files that it includes.

    `!function` has its value in the task files that ship, for the `path…` and `kwargs…` of benchmarks only, and is None
    elsewhere: no other code runs.

    Args:
        path: of the file.
        includers: the files that include it, to detect a circle.

    Raises:
        UserError: if a file is missing, is not YAML, has no keys, or includes itself.
    """
    if path in includers:
        raise UserError(f"{path} includes itself")
    try:
        text = read_limited(path, MAX_BYTES).decode("utf-8")
        keys = _TaskLoader(text, str(path)).get_single_data() or {}
    except UserError:
        raise
    except (OSError, yaml.YAMLError, *VALUE_ERRORS) as error:
        raise UserError(f"{path} cannot be read as a task: {reason(error)}") from error
    if not isinstance(keys, dict):
        raise UserError(f"{path} cannot be read as a task: it holds no keys")
    included: dict[str, Any] = {}
    includes = keys.pop("include", None) or []
    if not isinstance(includes, str | list) or not all(isinstance(name, str) for name in includes):
        raise UserError(f"{path}: include: expected the name of a file, or a list of names")
    # as in lmms-eval: the file's own keys come first, then those of the first file included
    for name in reversed([includes] if isinstance(includes, str) else includes):
        included.update(read_task_file(path.parent / name, (*includers, path)))
    return included | keys


def _local_data(keys: dict[str, Any], folder: Path) -> Iterator[Path]:
    """The files of a task's questions, as lmms-eval finds them: beside its YAML, else in the working folder."""
    source, kwargs = keys.get("dataset_path"), keys.get("dataset_kwargs")
    if source not in _LOCAL_BUILDERS:
        # a folder of this name, where there is one; else the Hub's
        yield from [Path(source)] if source and isinstance(source, str) and Path(source).exists() else []
        return
    named = [kwargs.get(key) for key in ("data_files", "data_dir")] if isinstance(kwargs, dict) else []
    for text in _texts(named):
        if (folder / text).is_file():
            yield folder / text
        elif "://" not in text:
            yield from map(Path, sorted(glob(text, recursive=True)) if has_magic(text) else [text])


def _texts(value: Any) -> Iterator[str]:
    """The texts in lists and mappings."""
    if isinstance(value, str):
        yield value
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(child)


class _TaskLoader(BoundedComposer):
    """Reads task files; see `read_task_file` for `!function`."""


def _function(loader: Any, node: Any) -> Any:
    folder = Path(loader.source).parent
    name, _, attribute = str(node.value).rpartition(".")
    field, underscore, data = attribute.partition("_")
    if folder.parent != Path(tasks_dir()) or field not in ("path", "kwargs"):
        return None
    module = import_module(f"lmms_steer.tasks.{folder.name}.{name}")
    # the rows of the smol tasks, which have no path, are drawn by their kwargs
    return getattr(module, attribute) if hasattr(module, f"path{underscore}{data}") else None


_TaskLoader.add_constructor("!function", _function)


def _collect_files(name: str, include_path: str | None, files: list[Path], seen: set[str]) -> None:
    """Append the files of all tasks behind a name; `seen` has the names visited so far."""
    kind, path = task_file(name, include_path)
    if kind == "task":
        files.append(path)
    if kind == "tag":
        files += tasks_with_tag(name, include_path)
    if kind == "group":
        for member in _members(path):
            if member not in seen and kind_of(member, include_path):
                seen.add(member)
                _collect_files(member, include_path, files, seen)


def _members(path: Path) -> list[str]:
    """The names of a group's tasks and groups."""
    listed = read_task_file(path).get("task") or []
    members = listed if isinstance(listed, list) else [listed]
    return [str(m.get("task") or m.get("group")) if isinstance(m, dict) else str(m) for m in members]


def _in_cache(dataset: str) -> bool:
    from huggingface_hub.constants import HF_HUB_CACHE

    return any(Path(HF_HUB_CACHE, f"datasets--{dataset.replace('/', '--')}", "snapshots").glob("*"))
