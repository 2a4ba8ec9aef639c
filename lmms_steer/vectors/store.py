"""A name ▸ a file: the user's own vectors first, then those that ship with the package.

A store is a folder of `<backbone>/<concept>/<method>.safetensors`. Beside a vector may lie `<method>.choices.yaml`: for
each MLLM the layer, alpha and tokens that a search on held-out questions chose.

What a search chose for a vector in a model, kept beside the vector: `<method>.choices.yaml`.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lmms_steer._util.io import shipped_folder, write_atomically
from lmms_steer._util.yaml import read_yaml
from lmms_steer.errors import UserError, first_line
from lmms_steer.vectors.backbones import short_name
from lmms_steer.vectors.methods import DEFAULT_METHOD
from lmms_steer.vectors.not_found import not_a_vector_file, unknown_vector
from lmms_steer.vectors.steering_vectors import SteeringVectors, read_provenance

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
    return shipped_folder("vector_cache")


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
            raise not_a_vector_file(str(path))
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
    raise unknown_vector(name, backbone, known)


def save(vectors: SteeringVectors, root: Path | None = None) -> Path:
    """File a vector in a store under its own name, and bring the store's index up to date.

    Raises:
        UserError: where it cannot be written; as `place`.
    """
    root = root if root is not None else user_store()
    path = vectors.save(path_in_store(vectors, root))
    write_atomically(root / "index.yaml", index(root).encode())
    return path


def path_in_store(vectors: SteeringVectors, root: Path) -> Path:
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


def choices_path(entry: Entry) -> Path:
    """Where the choices for a vector are kept: beside it, or in the user's store for one that ships."""
    if entry.origin == "shipped":
        return user_store() / f"{entry.name}.choices.yaml"
    return entry.path.with_suffix(".choices.yaml")


def read_choice(entry: Entry, model: str, sha256: str) -> dict[str, Any] | None:
    """The layer, alpha and tokens that were chosen for this vector in this model, or None.

    A choice that was made with another version of the vector does not count.

    Raises:
        UserError: when the file is damaged.
    """
    for path, choice in _stored_choices(entry, model):
        try:
            if choice["vector_sha256"] == sha256:
                return {key: choice[key] for key in ("layer", "alpha", "tokens")} | {"chosen_on": choice["chosen_on"]}
        except (KeyError, TypeError) as error:
            raise _damaged(path, error) from error
    return None


def outdated_choice(entry: Entry, model: str) -> Path | None:
    """The file with a choice for this model that `read` passes over: it was made for another content of this vector.

    Raises:
        UserError: as `read`.
    """
    return next((path for path, _ in _stored_choices(entry, model)), None)


def _stored_choices(entry: Entry, model: str) -> Iterator[tuple[Path, Any]]:
    for path in dict.fromkeys((choices_path(entry), entry.path.with_suffix(".choices.yaml"))):
        if path.is_file():
            try:
                choice = _read_choices(path).get(short_name(model))
            except UserError as error:
                raise _damaged(path, error) from error
            if choice is not None:
                yield path, choice


def _read_choices(path: Path) -> dict[str, Any]:
    found = read_yaml(path).typed()
    if not isinstance(found, dict):
        raise _damaged(path, ValueError("expected 'model: {layer: …, alpha: …, tokens: …}'"))
    return found


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"the choices file {str(path)!r} is damaged: {first_line(error)}")


def write_choice(path: Path, model: str, choice: dict[str, Any]) -> None:
    """Add or replace one model's choice: `layer`, `alpha`, `tokens`, `chosen_on`, `vector_sha256`.

    Processes that keep choices of several models at once lose none.

    Raises:
        UserError: when the file is damaged, or cannot be written.
    """
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            choices = _read_choices(path) if path.is_file() else {}
            whole = yaml.safe_dump({**choices, short_name(model): choice}, sort_keys=True)
            write_atomically(path, whole.encode())
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
