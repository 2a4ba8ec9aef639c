"""What an interrupted `lmms-steer extract` has stored, so that the next one keeps it.

While a command runs, its store holds `.extracting-HASH.json`: the name of each stored vector ▸ the hash of its file.
HASH stands for everything that a vector is made from besides its concept and method. The file is deleted at the end:
a command that is run again after it ended makes every vector again.
"""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lmms_steer import __version__
from lmms_steer._util.code import is_built_in
from lmms_steer._util.io import put_aside, write_atomically
from lmms_steer.concepts import Concept
from lmms_steer.errors import UserError
from lmms_steer.extraction.extract import Backbone
from lmms_steer.extraction.job import ExtractionSettings
from lmms_steer.extraction.sae_verdicts import Verdicts
from lmms_steer.vectors import store
from lmms_steer.vectors.methods import methods, split_method
from lmms_steer.vectors.steering_vectors import SteeringVectors


class Progress:
    """The vectors that an interrupted command like this one has stored.

    As a context: the record is deleted at the end of the block, and where the code of a method fails, because what it
    makes when it is mended may differ. It stays after a user's mistake, a full disk or an interrupt.

    Args:
        root: the store.
        source: the backbone.
        settings: for the methods.
        batch_size: sentences per forward pass.
    """

    def __init__(self, root: Path, source: Backbone, settings: ExtractionSettings, batch_size: int) -> None:
        versions = {"lmms-steer": __version__, **{name: version(name) for name in ("torch", "transformers")}}
        chosen = {key: _content(value) for key, value in asdict(settings).items()}
        if settings.orthogonal_to is not None:
            chosen["orthogonal_to"] = store.load_vectors(settings.orthogonal_to, source.name).sha256
        made_from = [source.source, _content(source.checkpoint), str(source.device), batch_size, chosen, versions]
        digest = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
        self.root, self.path, self.model = root, root / f".extracting-{digest[:16]}.json", source.name
        self.has_judge = settings.judge != "none"
        self.stored = self._read()

    def kept(self, wanted: Sequence[Concept], names: Sequence[str]) -> dict[str, Path]:
        """The vectors that are stored already, name ▸ file. A vector whose file is damaged is put aside.

        Args:
            wanted: the concepts.
            names: the methods.
        """
        kept = {}
        for concept in wanted:
            # a user's own method may have been corrected since
            for method in filter(_is_built_in, names):
                name = f"{self.model}/{concept.name}/{method}"
                path = self.root / f"{name}.safetensors"
                if not _is_readable(path) or self.stored.get(name) != _entry(concept.sentences_sha256, path):
                    continue
                if not self.has_judge or not _uses_judge(method) or self._has_its_verdicts(path, concept):
                    kept[name] = path
        return kept

    def record(self, vectors: SteeringVectors, path: Path) -> None:
        """Remember a vector that has just been stored."""
        self.stored[vectors.name] = _entry(vectors.provenance["sentences_sha256"], path)
        write_atomically(self.path, json.dumps(self.stored, indent=1).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or (issubclass(kind, Exception) and not issubclass(kind, UserError | OSError)):
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)

    def _has_its_verdicts(self, path: Path, concept: Concept) -> bool:
        """Whether the verdicts that a vector was made with are those of now, and none of its features lacks one."""
        layers = SteeringVectors.load(path).provenance["settings"].get("layers")
        stored = Verdicts(self.model, concept.name, sentences_sha256=concept.sentences_sha256)
        return layers is not None and all(
            (verdict := stored.get(layer["sae"], row["feature"])) is not None and verdict.means_concept is row["means"]
            for layer in layers.values()
            for row in layer["features"]
        )

    def _read(self) -> dict[str, list[str]]:
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            put_aside(self.path, error)
            return {}
        return stored if isinstance(stored, dict) else {}


def _entry(sentences_sha256: str, path: Path) -> list[str]:
    return [sentences_sha256, hashlib.sha256(path.read_bytes()).hexdigest()]


def _is_readable(path: Path) -> bool:
    """Whether a vector is stored; one that cannot be read is put aside."""
    if not path.is_file():
        return False
    try:
        SteeringVectors.load(path)
    except UserError:
        put_aside(path, "it is cut off, or no vector of lmms-steer's")
        return False
    return True


def _uses_judge(method: str) -> bool:
    return methods.get(split_method(method)[0]).uses_judge


def _is_built_in(method: str) -> bool:
    return is_built_in(methods.get(split_method(method)[0]).function)


def _content(value: Any) -> Any:
    """A setting; for the name of a file or folder also the sizes and times of its files."""
    if not isinstance(value, str | Path) or not Path(value).exists():
        return str(value)
    files = sorted(file for file in (Path(value), *Path(value).rglob("*")) if file.is_file())
    return [str(value), [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]]
