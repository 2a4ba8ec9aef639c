"""Vectors that a script holds as objects, where a name or a file is needed: in a model's arguments, in a search.

What no store has is written to a file, which is then read, hashed and recorded as any other. Its name holds the hash of
its content: the same vectors have the same name the next time, and others never take their place.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lmms_steer._util.io import cache_dir
from lmms_steer.errors import UserError, shorten
from lmms_steer.vectors.steering_vectors import SteeringVectors
from lmms_steer.vectors.store import stored_name

VECTOR_KEYS = ("vector", "gate_vector")
"""The keys of a spec that name vectors."""


def given_folder() -> Path:
    """Where vectors and specs are written that a script gave as objects."""
    return cache_dir() / "given"


def name_of(vector: Any, folder: Path | None = None) -> str:
    """The name or the file of what was given as a vector.

    Args:
        vector: a name, a file, or vectors.
        folder: where vectors that no store has are written; default: in the user's cache.

    Raises:
        UserError: for something else, and for vectors that cannot be saved.
    """
    if isinstance(vector, str | os.PathLike):
        return os.fspath(vector)
    if not isinstance(vector, SteeringVectors):
        raise UserError(f"expected the name or the file of a vector, or SteeringVectors; got {shorten(repr(vector))}")
    words = re.sub(r"[^\w.+-]+", "-", vector.name.partition("/")[2])[:100]
    path = (folder or given_folder()) / f"{words}-{vector.sha256[:12]}.safetensors"
    if folder is not None and path.is_file():
        # an interrupted search goes on under the name that it began with
        return str(path)
    if name := stored_name(vector):
        return name
    if not path.is_file():
        vector.save(path)
    return str(path)


def names_of(vectors: Any, folder: Path) -> list[str]:
    """The names or files of one vector or of several.

    Args:
        vectors: one or several, as for `name_of`; also name ▸ vectors, as `extract` returns several.
        folder: as for `name_of`.

    Raises:
        UserError: as `name_of`.
    """
    if isinstance(vectors, str | os.PathLike | SteeringVectors) or not isinstance(vectors, Iterable):
        return [name_of(vectors, folder)]
    return [name_of(one, folder) for one in (vectors.values() if isinstance(vectors, Mapping) else vectors)]


def with_names(args: Mapping[str, Any]) -> dict[str, Any]:
    """A model's arguments with the names or files of vectors that were given as objects.

    Raises:
        UserError: for vectors that cannot be saved.
    """
    return {
        key: name_of(value) if key in VECTOR_KEYS and isinstance(value, SteeringVectors) else value
        for key, value in args.items()
    }
