"""A name ▸ a file: the user's own vectors first, then those that ship with the package.

A store is a folder of `<backbone>/<concept>/<method>.safetensors`. Beside a vector may lie `<method>.choices.yaml`: for
each MLLM the layer, alpha and tokens that a search on held-out questions chose.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lmms_steer.errors import UserError
from lmms_steer.files import write_atomically
from lmms_steer.method_names import DEFAULT_METHOD
from lmms_steer.missing import missing, no_vector_file
from lmms_steer.shipped import shipped
from lmms_steer.vectors import SteeringVectors, read_provenance

_PART = r"(?!\.)[\w.+-]+"
_NAME = re.compile(f"{_PART}/{_PART}/{_PART}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A vector in a store: its name, where it lies, and which store that is (`yours` or `shipped`)."""

    name: str
    path: Path
    origin: str


def cache_dir() -> Path:
    """Where lmms-steer keeps what it makes: `$LMMS_STEER_CACHE`, else `~/.cache/lmms-steer`."""
    return Path(os.environ.get("LMMS_STEER_CACHE") or Path.home() / ".cache" / "lmms-steer")


def user_store() -> Path:
    return cache_dir() / "vectors"


def shipped_store() -> Path:
    return shipped("vector_cache")


def entries() -> Iterator[Entry]:
    """Every vector that a name can reach; one of yours hides a shipped one of the same name."""
    seen = set()
    for origin, root in (("yours", user_store()), ("shipped", shipped_store())):
        for path in sorted(root.glob("*/*/*.safetensors")):
            name = path.relative_to(root).with_suffix("").as_posix()
            if name not in seen:
                seen.add(name)
                yield Entry(name, path, origin)


def find(name: str, backbone: str | None) -> Entry:
    """The vector that a user means.

    Args:
        name: a path, `backbone/concept/method`, `backbone/concept`, `concept/method` or `concept`.
        backbone: the text backbone of the model to be steered, for names that leave it out.

    Raises:
        UserError: when there is none; it says what is nearest, or what command makes it.
    """
    if name.endswith((".safetensors", ".pt", ".pth", ".bin", ".pkl")) or name.startswith((".", "/", "~")):
        path = Path(name).expanduser()
        if path.is_dir():
            raise no_vector_file(str(path))
        if not path.is_file():
            raise UserError(f"no such vector file: {name!r}")
        return Entry(str(path), path, "file")
    known = {entry.name: entry for entry in entries()}
    candidates = [name, f"{name}/{DEFAULT_METHOD}"]
    if backbone is not None:
        candidates += [f"{backbone}/{name}", f"{backbone}/{name}/{DEFAULT_METHOD}"]
    for candidate in candidates:
        if candidate in known:
            return known[candidate]
    raise missing(name, backbone, known)


def save(vectors: SteeringVectors, root: Path | None = None) -> Path:
    """File a vector in a store under its own name, and bring the store's index up to date.

    Raises:
        UserError: where it cannot be written; as `place`.
    """
    root = root if root is not None else user_store()
    path = vectors.save(place(vectors, root))
    write_atomically(root / "index.yaml", index(root).encode())
    return path


def place(vectors: SteeringVectors, root: Path) -> Path:
    """Where a store files a vector.

    Raises:
        UserError: where its provenance makes a name that is no `backbone/concept/method`: it might lead out of it.
    """
    if not _NAME.fullmatch(vectors.name):
        raise UserError(f"{vectors.name!r} is no name for a vector: expected backbone/concept/method")
    return root / f"{vectors.name}.safetensors"


def index(root: Path) -> str:
    """A store's table of contents, for people: no code reads it. A damaged file has its row, and says so there."""
    table = {}
    for path in sorted(root.glob("*/*/*.safetensors")):
        try:
            row = _row(read_provenance(path))
        except UserError as error:
            row = {"damaged": str(error)}
        table[path.relative_to(root).with_suffix("").as_posix()] = row
    return "# Written by lmms-steer whenever it files a vector here.\n" + yaml.safe_dump(table, sort_keys=True)


def _row(made: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("n_layers", "hidden_size", "sentences_sha256")
    # what a method found layer by layer is long, and stands in the file
    settings = {key: value for key, value in made["settings"].items() if not isinstance(value, dict)}
    return {key: made[key] for key in keys if key in made} | {"settings": settings}
