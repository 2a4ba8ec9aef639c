"""Stores: folders of vectors, in which a vector is found by its name.

A store is a folder of `<backbone>/<concept>/<method>.safetensors`. The user's store comes first, then the vectors that
ship with the package. Next to a vector there may be a `<method>.choices.yaml`: for each multimodal model the layer,
alpha and tokens that a search on held-out questions chose.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lmms_steer._util.io import (
    cache_dir,
    is_folder,
    is_regular_file,
    read_limited,
    shipped_folder,
    user_path,
    write_atomically,
)
from lmms_steer._util.yaml import MAX_BYTES, read_yaml
from lmms_steer.errors import UserError, first_line, reason, shorten
from lmms_steer.vectors.backbones import short_name
from lmms_steer.vectors.methods import DEFAULT_METHOD
from lmms_steer.vectors.not_found import not_a_vector_file, unknown_vector
from lmms_steer.vectors.steering_vectors import SteeringVectors, read_provenance
from lmms_steer.vectors.weights import describe_source, model_source, same_weights

_PART = r"(?!\.)[\w.+-]+"
MAX_PART = 200
"""Most bytes of a part of a name. The name of a file may have 255, and the files next to a vector have longer names."""
_NAME = re.compile(f"{_PART}/{_PART}/{_PART}")
MODEL_KEY = "model"
"""Where a choice says which weights it was made on, as `model_source` gives them."""
BUDGET_KEYS = ("budget", "budget_model")
"""What a choice says besides, where its alpha was resolved for a KL budget."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A vector in a store.

    Attributes:
        name: `backbone/concept/method`; of a file outside the stores its path.
        path: of the file.
        origin: the store: `yours`, `shipped`, or `file` for a file outside the stores.
    """

    name: str
    path: Path
    origin: str


def user_store() -> Path:
    """The folder of the user's own vectors."""
    return cache_dir() / "vectors"


def shipped_store() -> Path:
    """The folder of the vectors that ship with the package."""
    return shipped_folder("vector_cache")


def entries() -> Iterator[Entry]:
    """Every vector that can be named; one in the user's store hides a shipped one of the same name."""
    seen = set()
    for origin, root in (("yours", user_store()), ("shipped", shipped_store())):
        for path in sorted(root.glob("*/*/*.safetensors")):
            name = path.relative_to(root).with_suffix("").as_posix()
            if name not in seen:
                seen.add(name)
                yield Entry(name, path, origin)


def find(name: str, backbone: str | None) -> Entry:
    """Find a vector by its name.

    Args:
        name: a path, `backbone/concept/method`, `backbone/concept`, `concept/method` or `concept`.
        backbone: the text backbone of the model to be steered, for names that leave it out.

    Raises:
        UserError: for a name of no vector, with the nearest name or the command that extracts it.
    """
    if name.endswith((".safetensors", ".pt", ".pth", ".bin", ".pkl")) or name.startswith((".", "/", "~")):
        path = user_path(name)
        if is_folder(path):
            raise not_a_vector_file(str(path))
        if not is_regular_file(path):
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


def load_vectors(name: str | os.PathLike[str], backbone: str | None = None) -> SteeringVectors:
    """Load a vector by its name in a store, or from a file.

    Args:
        name: `tiny-gemma2/spatial/mean_shift`, `tiny-gemma2/spatial`, or a file that ends in `.safetensors`.
        backbone: the text backbone, for names that leave it out: `spatial`.

    Raises:
        UserError: for a name of no vector, with the nearest name, or a file that cannot be read.
    """
    if isinstance(name, os.PathLike):
        return SteeringVectors.load(Path(name))
    if not isinstance(name, str):
        raise UserError(f"load_vectors takes the name or the file of a vector, and not a {type(name).__name__}")
    return SteeringVectors.load(find(name, backbone).path)


def stored_name(vectors: SteeringVectors) -> str | None:
    """The name by which these vectors are found; None where no store holds exactly them."""
    for entry in entries():
        if entry.name == vectors.name and SteeringVectors.load(entry.path).sha256 == vectors.sha256:
            return vectors.name
    return None


def save(vectors: SteeringVectors, root: Path | None = None, check: Callable[[Path], None] = lambda _: None) -> Path:
    """Save a vector in a store under its own name, and update the store's index. Processes take turns.

    Args:
        vectors: to save.
        root: the store; None: the user's.
        check: called with the file's path before it is written, while no other process writes to the store.

    Raises:
        UserError: when the file cannot be written; as `path_in_store`; whatever `check` raises.
    """
    from filelock import FileLock

    root = root if root is not None else user_store()
    path = path_in_store(vectors, root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".store.lock"):
            check(path)
            vectors.save(path)
            write_atomically(root / "index.yaml", index(root).encode())
    except OSError as error:
        raise UserError(f"cannot write to the store {str(root)!r}: {reason(error)}") from error
    return path


def path_in_store(vectors: SteeringVectors, root: Path) -> Path:
    """The path of a vector in a store.

    Raises:
        UserError: for a vector whose name is not `backbone/concept/method`; its path might be outside the store.
    """
    check_name(vectors.name)
    return root / f"{vectors.name}.safetensors"


def check_name(name: str) -> None:
    """Check that a vector can be stored under a name.

    Raises:
        UserError: for a name that is not `backbone/concept/method`, or of which a part is too long.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"{name!r} cannot be the name of a vector: expected backbone/concept/method")
    longest = max(name.split("/"), key=lambda part: len(part.encode()))
    if len(longest.encode()) > MAX_PART:
        raise UserError(
            f"{shorten(name)!r} cannot be the name of a vector: {shorten(longest)!r} has more than {MAX_PART} bytes"
        )


def is_name_part(text: str) -> bool:
    """Whether a text can be a part of a vector's name: letters, digits and `_.+-`, not beginning with a dot."""
    return re.fullmatch(_PART, text) is not None


def index(root: Path) -> str:
    """The content of a store's `index.yaml`, for people: a row per vector. A damaged file's row gives the error."""
    table = {}
    for path in sorted(root.glob("*/*/*.safetensors")):
        try:
            row = _row(read_provenance(path))
        except UserError as error:
            row = {"damaged": str(error)}
        table[path.relative_to(root).with_suffix("").as_posix()] = row
    return "# Written by lmms-steer whenever it files a vector here.\n" + yaml.safe_dump(table, sort_keys=True)


def choices_path(entry: Entry) -> Path:
    """The file with the choices for a vector: next to it; for one that ships, in the user's store."""
    if entry.origin == "shipped":
        return user_store() / f"{entry.name}.choices.yaml"
    return entry.path.with_suffix(".choices.yaml")


def read_choice(entry: Entry, model: str, sha256: str, revision: str | None = None) -> dict[str, Any] | None:
    """The layer, alpha and tokens that a search chose for this vector in this model, or None.

    Args:
        entry: the vector.
        model: the multimodal model's name or path; a choice for other weights of the same name does not count.
        sha256: the vector's; a choice that was made for another version of the vector does not count.
        revision: of the model, if it is a Hub id.

    Returns:
        `layer`, `alpha`, `tokens` and `chosen_on`, the task that it was chosen on; `BUDGET_KEYS` too where its alpha
        was resolved for a KL budget.

    Raises:
        UserError: when the file is damaged.
    """
    for path, choice in _stored_choices(entry, model):
        try:
            if choice["vector_sha256"] == sha256 and not _of_other_weights(choice, model, revision):
                budget = {key: choice[key] for key in BUDGET_KEYS if key in choice}
                return {key: choice[key] for key in ("layer", "alpha", "tokens", "chosen_on")} | budget
        except (KeyError, TypeError) as error:
            raise _damaged(path, error) from error
    return None


def explain_unused_choice(entry: Entry, model: str, sha256: str) -> str | None:
    """Which choice for a model of this name does not count, and why; None where there is none.

    To be called with the arguments for which `read_choice` returned None.

    Raises:
        UserError: as `read_choice`.
    """
    for path, choice in _stored_choices(entry, model):
        made = "for a different version of this vector"
        if choice["vector_sha256"] == sha256:
            made = f"on other weights, {describe_source(choice[MODEL_KEY])}"
        return f"the choice for {short_name(model)} in {str(path)!r} was made {made}"
    return None


def write_choice(path: Path, model: str, choice: dict[str, Any], revision: str | None = None) -> None:
    """Add or replace one model's choice. Processes may write choices of several models at the same time.

    Args:
        path: as `choices_path` returned it.
        model: the multimodal model's name or path.
        choice: `layer`, `alpha`, `tokens`, `chosen_on` and `vector_sha256`; the weights that it was chosen on are
            added.
        revision: of the model, if it is a Hub id.

    Raises:
        UserError: when the file is damaged, or cannot be written.
    """
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            choices = _read_choices(path) if path.is_file() else {}
            whole = choice | {MODEL_KEY: model_source(model, revision)}
            text = yaml.safe_dump({**choices, short_name(model): whole}, sort_keys=True)
            write_atomically(path, text.encode())
    except OSError as error:
        raise UserError(f"cannot write {str(path)!r}: {reason(error)}") from error


def _stored_choices(entry: Entry, model: str) -> Iterator[tuple[Path, Any]]:
    for path in dict.fromkeys((choices_path(entry), entry.path.with_suffix(".choices.yaml"))):
        if path.is_file():
            choice = _read_choices(path).get(short_name(model))
            if choice is not None:
                yield path, choice


def _of_other_weights(choice: Mapping[str, Any], model: str, revision: str | None) -> bool:
    """Whether a choice was made on other weights than a model's. Files of earlier versions do not say on which."""
    recorded = choice.get(MODEL_KEY)
    return isinstance(recorded, Mapping) and same_weights(model_source(model, revision), recorded) is False


def checked_choices(path: Path) -> bytes:
    """The content of a choices file that another person wrote.

    Raises:
        UserError: when it is damaged.
    """
    _read_choices(path)
    return read_limited(path, MAX_BYTES)


def choices_without_paths(path: Path) -> bytes:
    """The content of a choices file without the models' folders on this machine, to be shared with others.

    Raises:
        UserError: when it is damaged.
    """
    choices = _read_choices(path)
    for choice in choices.values():
        if isinstance(choice, dict) and isinstance(choice.get(MODEL_KEY), dict):
            choice[MODEL_KEY].pop("model_path", None)
    return yaml.safe_dump(choices, sort_keys=True).encode()


def _read_choices(path: Path) -> dict[str, Any]:
    try:
        choices = read_yaml(path).typed()
    except UserError as error:
        raise _damaged(path, error) from error
    if not isinstance(choices, dict):
        raise _damaged(path, ValueError("expected 'model: {layer: …, alpha: …, tokens: …}'"))
    return choices


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"the choices file {str(path)!r} is damaged: {first_line(error)}")


def _row(provenance: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("n_layers", "hidden_size", "sentences_sha256")
    # settings by layer are long, and can be read in the vector's file
    settings = {key: value for key, value in provenance["settings"].items() if not isinstance(value, dict)}
    return {key: provenance[key] for key in keys if key in provenance} | {"settings": settings}
