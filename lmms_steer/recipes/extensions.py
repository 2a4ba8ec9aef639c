"""The code of other packages' extensions that a cell runs: methods, operations, strategies and so on.

Nothing is imported: an extension may take seconds, and a plan asks for every cell.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import EntryPoint, distributions
from importlib.util import find_spec
from pathlib import Path

from lmms_steer._util.io import read_limited
from lmms_steer._util.yaml import MAX_BYTES

_GROUPS = "lmms_steer."
"""How the names of our entry-point groups begin."""
_FOUND_BY_ITSELF = "lmms_steer.prompt_formats"
"""The group whose entries are asked whether they are for a model; no command names them."""
_SETTINGS = (".yaml", ".yml")


def extension_files(words: Sequence[str], reads: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Extension ▸ the source files of its package.

    Args:
        words: of a command line.
        reads: files that it reads; a spec among them may name an extension.
    """
    texts = [*words, *_texts(reads)]
    return {
        f"{point.group} {point.name}": _sources(point.module)
        for point in _extensions()
        if point.group == _FOUND_BY_ITSELF or any(re.search(rf"\b{re.escape(point.name)}\b", text) for text in texts)
    }


@cache
def _extensions() -> tuple[EntryPoint, ...]:
    points = (point for one in distributions() for point in one.entry_points if point.group.startswith(_GROUPS))
    return tuple(sorted(points, key=lambda point: (point.group, point.name, point.value)))


def _texts(paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        if path.endswith(_SETTINGS):
            try:
                yield read_limited(Path(path), MAX_BYTES).decode(errors="replace")
            except OSError:
                continue


@cache
def _sources(module: str) -> tuple[str, ...]:
    """The Python files of the package that a module belongs to; none where it is not found."""
    spec = find_spec(module.partition(".")[0])
    if spec is None:
        return ()
    if not spec.submodule_search_locations:
        return (str(spec.origin),) if spec.has_location else ()
    return tuple(sorted(str(path) for folder in spec.submodule_search_locations for path in Path(folder).rglob("*.py")))
