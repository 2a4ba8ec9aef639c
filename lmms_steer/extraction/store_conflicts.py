"""Whether new vectors would replace stored ones that were made otherwise, or hide shipped ones of the same names."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from lmms_steer._util.formatting import format_layers
from lmms_steer.concepts import Concept
from lmms_steer.errors import UserError
from lmms_steer.extraction.job import ExtractionSettings
from lmms_steer.vectors import store
from lmms_steer.vectors.ownership import have_same_directions
from lmms_steer.vectors.steering_vectors import SteeringVectors


def check_store_conflicts(
    model: str,
    wanted: Sequence[Concept],
    methods: Sequence[str],
    root: Path,
    settings: ExtractionSettings,
    replace: bool,
) -> None:
    """Check that no vector would replace one that was made otherwise.

    Raises:
        UserError: for a stored vector of that name from other sentences, at layers that are not wanted now, with
            another component removed or from other tokens of a question, unless `replace`; for two concepts of one
            name.
    """
    removed = None
    if settings.orthogonal_to is not None:
        removed = store.load_vectors(settings.orthogonal_to, model).name
    hashes: dict[str, str] = {}
    for concept in wanted:
        if hashes.setdefault(concept.name, concept.sentences_sha256) != concept.sentences_sha256:
            raise UserError(f"two of the concepts are named {concept.name!r}: one's vectors would replace the other's")
        for path in [] if replace else _paths(root, model, concept, methods):
            if found := _other_way(path, concept, settings, removed):
                raise UserError(
                    f"{str(path)!r} was made {found}: give the concept another name, or add --replace to lose that"
                    " vector"
                )


def shadowing_note(names: Sequence[str], root: Path) -> str | None:
    """A note on vectors in the user's store that hide shipped vectors of the same names with other directions."""
    if root.resolve() != store.user_store().resolve():
        return None
    hidden = [name for name in dict.fromkeys(names) if _differs(root, store.shipped_store(), name)]
    if not hidden:
        return None
    return f"these vectors in {str(root)!r} now hide the shipped ones of the same names: {', '.join(hidden)}"


def _paths(root: Path, model: str, concept: Concept, methods: Sequence[str]) -> Iterator[Path]:
    for method in methods:
        yield root / model / concept.name / f"{method}.safetensors"


def _other_way(path: Path, concept: Concept, settings: ExtractionSettings, removed: str | None) -> str:
    """How a stored vector was made, if otherwise than the one that would replace it; else "".

    Args:
        path: of the stored vector, if there is one.
        concept, settings: of the new vector.
        removed: the name of the vector whose component is removed from the new one.
    """
    if not path.is_file():
        return ""
    try:
        stored = SteeringVectors.load(path)
    except UserError:
        return ""  # damaged: there is nothing to lose
    made, layers = stored.provenance.get("settings", {}), settings.layers
    theirs = made.get("orthogonal_to")
    problems = {
        f"from other sentences than this {concept.name!r}": stored.provenance.get("sentences_sha256")
        != concept.sentences_sha256,
        f"for the layers {format_layers(stored.layers)}": layers is not None and not set(stored.layers) <= set(layers),
        f"with --orthogonal_to {theirs}" if theirs else "without --orthogonal_to": theirs != removed,
        f"with --at {made.get('at')}": made.get("at", settings.at) != settings.at,
    }
    return next((problem for problem, applies in problems.items() if applies), "")


def _differs(root: Path, shipped: Path, name: str) -> bool:
    mine, theirs = (folder / f"{name}.safetensors" for folder in (root, shipped))
    if not (mine.is_file() and theirs.is_file()):
        return False
    return not have_same_directions(SteeringVectors.load(mine), SteeringVectors.load(theirs))
