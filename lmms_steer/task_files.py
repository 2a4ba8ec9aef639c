"""Tasks, groups and tags, ours and lmms-eval's, read from their YAML as text: to import its index takes ten seconds."""

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from lmms_steer.errors import UserError, unknown

Names = dict[str, tuple[str, Path]]
"""Name ▸ `task`, `group` or `tag`, and a file that says it."""

_TOLD = re.compile(r"^[\"']?(task|group|tag)[\"']?[ \t]*:([^\n]*)((?:\n[ \t]*-.*)*)", re.MULTILINE)
_NAME = re.compile(r"\w[^\s,\"'\[\]{}:]*")


def tasks_dir() -> str:
    """The folder of our task YAMLs, as `--include_path` wants it."""
    return str(files("lmms_steer.tasks"))


def ours() -> Names:
    """Those that ship."""
    return names_in(Path(tasks_dir()))


def theirs() -> Names:
    """lmms-eval's own: every name that its index has, and a few that are parts of groups only."""
    spec = find_spec("lmms_eval")
    where = spec.submodule_search_locations if spec else None
    return names_in(Path(where[0]) / "tasks") if where else {}


@cache
def names_in(root: Path) -> Names:
    """Those of a folder."""
    found: Names = {}
    # files that others include end in `_yaml` and may hold their tags
    for path in sorted(root.rglob("*yaml")):
        for kind, name, itself in _told(path):
            # one that only a list mentions, or that is a tag too, is what its own file says
            if itself and kind != "tag":
                found[name] = (kind, path)
            else:
                found.setdefault(name, (kind, path))
    return found


def kind(name: str, include_path: str | None = None) -> str | None:
    """`task`, `group` or `tag`; None for what is none of them.

    Args:
        name: of lmms-eval's `--tasks`.
        include_path: the user's own folder of tasks.
    """
    return next((names[name][0] for names in _folders(include_path) if name in names), None)


def check(name: str, include_path: str | None = None) -> None:
    """
    Args:
        name, include_path: as of `kind`.

    Raises:
        UserError: for a name that nobody has, with the nearest.
    """
    if kind(name, include_path) is None:
        raise unknown("task", name, {known for names in _folders(include_path) for known in names})


def not_here(name: str, include_path: str | None = None) -> Iterator[str]:
    """A line for each dataset of a task, group or tag that is not on this disk.

    Args:
        name, include_path: as of `kind`, which knows them.
    """
    names = next(names for names in _folders(include_path) if name in names)
    said, path = names[name]
    if said == "task" and (line := _dataset_not_here(path)):
        yield line
    if said == "tag":
        tagged = [p for kind, p in names.values() if kind == "task" and any(t[:2] == ("tag", name) for t in _told(p))]
        yield from filter(None, map(_dataset_not_here, tagged))
    if said == "group":
        for member in _members(path):
            if member != name and kind(member, include_path):
                yield from not_here(member, include_path)


def _folders(include_path: str | None) -> Iterator[Names]:
    if include_path is not None:
        yield names_in(Path(include_path))
    yield ours()
    yield theirs()


def _told(path: Path) -> Iterator[tuple[str, str, bool]]:
    """Kind and name, and whether the file is that task's or group's own."""
    for kind, line, listed in _TOLD.findall(path.read_text(encoding="utf-8", errors="replace")):
        alone = not listed and "[" not in line
        for name in _NAME.findall(re.sub("#.*", "", line + listed)):
            if name not in ("task", "group"):
                yield kind, name, alone


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
