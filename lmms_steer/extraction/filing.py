"""Whether a store takes the vectors that are about to be made: asked before the model is loaded."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lmms_steer import store
from lmms_steer.backbones import short_name
from lmms_steer.concepts import Concept
from lmms_steer.errors import UserError
from lmms_steer.vectors import read_provenance


def check_names(backbone: str, wanted: Sequence[Concept], methods: Sequence[str], root: Path, replace: bool) -> None:
    """See that no vector takes the place of one about something else.

    Raises:
        UserError: for a vector of that name made from other sentences, unless it is to be replaced; for two concepts
            of one name.
    """
    made: dict[str, str] = {}
    for concept in wanted:
        if made.setdefault(concept.name, concept.sentences_sha256) != concept.sentences_sha256:
            raise UserError(f"two of the concepts are named {concept.name!r}: one's vectors would replace the other's")
        for path in [] if replace else _paths(root, backbone, concept, methods):
            if _is_of_other_sentences(path, concept):
                raise UserError(
                    f"{str(path)!r} was made from other sentences than this {concept.name!r}: give the concept another"
                    " name, or add --replace to lose that vector"
                )


def hiding(names: Sequence[str], root: Path) -> str | None:
    """The line for vectors in the user's store that stand before shipped ones of their names with other content."""
    if root.resolve() != store.user_store().resolve():
        return None
    hidden = [name for name in dict.fromkeys(names) if _differs(root, store.shipped_store(), name)]
    if not hidden:
        return None
    return f"in {str(root)!r}, and so found before what ships under that name: {', '.join(hidden)}"


def _paths(root: Path, backbone: str, concept: Concept, methods: Sequence[str]) -> Iterator[Path]:
    for method in methods:
        yield root / short_name(backbone) / concept.name / f"{method}.safetensors"


def _is_of_other_sentences(path: Path, concept: Concept) -> bool:
    try:
        return path.is_file() and read_provenance(path).get("sentences_sha256") != concept.sentences_sha256
    except UserError:
        return False  # damaged: there is nothing to lose


def _differs(root: Path, shipped: Path, name: str) -> bool:
    mine, theirs = (folder / f"{name}.safetensors" for folder in (root, shipped))
    return mine.is_file() and theirs.is_file() and mine.read_bytes() != theirs.read_bytes()
