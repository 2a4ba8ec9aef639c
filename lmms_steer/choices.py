"""What a search chose for a vector in a model, kept beside the vector: `<method>.choices.yaml`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lmms_steer.backbones import short_name
from lmms_steer.errors import UserError, one_line
from lmms_steer.files import write_atomically
from lmms_steer.store import Entry, user_store


def path_of(entry: Entry) -> Path:
    """Where the choices for a vector are kept: beside it, or in the user's store for one that ships."""
    if entry.origin == "shipped":
        return user_store() / f"{entry.name}.choices.yaml"
    return entry.path.with_suffix(".choices.yaml")


def read(entry: Entry, model: str, sha256: str) -> dict[str, Any] | None:
    """The layer, alpha and tokens that were chosen for this vector in this model, or None.

    A choice that was made with another version of the vector does not count.

    Raises:
        UserError: when the file is damaged.
    """
    for path, choice in _kept(entry, model):
        try:
            if choice["vector_sha256"] == sha256:
                return {key: choice[key] for key in ("layer", "alpha", "tokens")} | {"chosen_on": choice["chosen_on"]}
        except (KeyError, TypeError) as error:
            raise _damaged(path, error) from error
    return None


def outdated(entry: Entry, model: str) -> Path | None:
    """The file with a choice for this model that `read` passes over: it was made for another content of this vector.

    Raises:
        UserError: as `read`.
    """
    return next((path for path, _ in _kept(entry, model)), None)


def _kept(entry: Entry, model: str) -> Iterator[tuple[Path, Any]]:
    for path in dict.fromkeys((path_of(entry), entry.path.with_suffix(".choices.yaml"))):
        if path.is_file():
            try:
                choice = yaml.safe_load(path.read_text(encoding="utf-8")).get(short_name(model))
            except (OSError, ValueError, yaml.YAMLError, AttributeError) as error:
                raise _damaged(path, error) from error
            if choice is not None:
                yield path, choice


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"the choices file {str(path)!r} is damaged: {one_line(error)}")


def write(path: Path, model: str, choice: dict[str, Any]) -> None:
    """Add or replace one model's choice: `layer`, `alpha`, `tokens`, `chosen_on`, `vector_sha256`.

    Processes that keep choices of several models at once lose none.

    Raises:
        UserError: when the file is damaged, or cannot be written.
    """
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            choices = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
            whole = yaml.safe_dump({**choices, short_name(model): choice}, sort_keys=True)
            write_atomically(path, whole.encode())
    except (yaml.YAMLError, UnicodeDecodeError, TypeError) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
