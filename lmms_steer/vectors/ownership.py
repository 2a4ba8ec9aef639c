"""A model's name in a store belongs to one set of weights: vectors of others are refused under it, and never lost.

Folders of different models often have the same name (`a/checkpoint-500`, `b/checkpoint-500`), and so have copies on the
Hub. Imports no torch.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lmms_steer.errors import UserError
from lmms_steer.vectors import store
from lmms_steer.vectors.steering_vectors import SteeringVectors, read_provenance
from lmms_steer.vectors.weights import describe_source, same_weights

ROUNDING = 1e-3
"""Largest difference between two extractions from the same weights, as a share of the largest entry of a layer."""


def check_name_is_free(source: Mapping[str, Any], root: Path) -> None:
    """Check that no vector under a model's name in a store is known to be of other weights.

    Args:
        source: as `lmms_steer.vectors.weights.model_source` returns it.
        root: the store. The user's store and the vectors that ship share their names.

    Raises:
        UserError: for a name that is taken, with the ways out.
    """
    for path, theirs in _under_name(source["model"], root):
        if same_weights(source, theirs) is False:
            raise UserError(
                f"the name {source['model']!r} in the store {str(root)!r} is taken by other weights: {str(path)!r} was"
                f" made from {describe_source(theirs)}, not from {describe_source(source)}; {_WAYS_OUT}"
            )


def warn_of_mixed_names(source: Mapping[str, Any], root: Path, written: Collection[Path]) -> None:
    """Warn of vectors that stay in a store under a model's name though they are, or may be, of other weights.

    Args:
        source, root: as for `check_name_is_free`.
        written: the files that are or will be written from these weights.
    """
    others: dict[bool | None, list[str]] = {False: [], None: []}
    for path, theirs in _under_name(source["model"], root):
        same = same_weights(source, theirs)
        if path not in written and same is not True:
            others[same].append("/".join(path.with_suffix("").parts[-2:]))
    name, own = f"{source['model']!r} in {str(root)!r}", describe_source(source)
    if others[False]:
        logging.getLogger(__name__).warning(
            f"these vectors of {name} are of other weights than {own}: {', '.join(others[False])}"
        )
    if others[None]:
        logging.getLogger(__name__).warning(
            f"these vectors of {name} may be of other weights than {own}: {', '.join(others[None])}"
        )


def save_own(vectors: SteeringVectors, root: Path, replace: bool = False) -> Path:
    """Save a vector in a store, unless its name belongs to other weights. Processes may save at the same time.

    Args:
        vectors: to save.
        root: the store.
        replace: save it all the same.

    Raises:
        UserError: as `check_name_is_free`; for a file of that name whose weights are not recorded and whose directions
            differ.
    """

    def check(path: Path) -> None:
        if replace:
            return
        check_name_is_free(vectors.provenance, root)
        _check_unrecorded(vectors, path)

    return store.save(vectors, root, check)


def save_imported(vectors: SteeringVectors, root: Path | None = None, replace: bool = False) -> Path:
    """Save a vector that was not made here, as `save_own`; nor does it replace other content of its name.

    Args:
        vectors: to save.
        root: the store; None: the user's.
        replace: save it all the same.

    Raises:
        UserError: as `save_own`; for a file of that name with other directions.
    """
    root = root if root is not None else store.user_store()
    path = store.path_in_store(vectors, root)
    if not replace and path.is_file() and not _has_directions(path, vectors):
        raise UserError(f"{str(path)!r} has other content: {_WAYS_OUT}")
    return save_own(vectors, root, replace)


def have_same_directions(one: SteeringVectors, other: SteeringVectors) -> bool:
    """Whether two vectors have the same directions up to rounding, which differs between machines."""
    if one.layers != other.layers or (one.patches, one.hidden_size) != (other.patches, other.hidden_size):
        return False
    return all(np.allclose(one[k], other[k], rtol=0, atol=ROUNDING * float(np.abs(other[k]).max())) for k in one)


_WAYS_OUT = "extract with another --name, choose another --store, or replace vectors of the same names with --replace"


def _check_unrecorded(vectors: SteeringVectors, path: Path) -> None:
    """Refuse to replace a vector of unknown weights, unless it has the same directions."""
    try:
        stored = SteeringVectors.load(path)
    except UserError:
        return  # missing or damaged: there is nothing to lose
    if same_weights(vectors.provenance, stored.provenance) is None and not have_same_directions(vectors, stored):
        raise UserError(
            f"{str(path)!r} differs, and does not record whether it was made from these weights,"
            f" {describe_source(vectors.provenance)}; {_WAYS_OUT}"
        )


def _has_directions(path: Path, vectors: SteeringVectors) -> bool:
    try:
        return have_same_directions(vectors, SteeringVectors.load(path))
    except UserError:
        return True  # damaged: there is nothing to lose


def _under_name(model: str, root: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """The files of a model's vectors that can be read, and their provenances."""
    roots = [root]
    if root.resolve() == store.user_store().resolve():
        roots.append(store.shipped_store())
    for folder in roots:
        for path in sorted((folder / model).glob("*/*.safetensors")):
            try:
                yield path, read_provenance(path)
            except UserError:
                continue  # damaged; `vectors list` shows it
