"""`lmms-steer vectors list`: a row a concept, a row a vector, or names alone."""

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import groupby
from typing import Any

from lmms_steer._util.formatting import count_noun, format_shape
from lmms_steer.errors import UserError
from lmms_steer.vectors import store
from lmms_steer.vectors.not_found import CLOSE, nearest_names
from lmms_steer.vectors.steering_vectors import read_provenance
from lmms_steer.vectors.store import Entry


def listing_lines(name: str | None, names_only: bool) -> Iterator[str]:
    """Yields what the user should read.

    Args:
        name: a part of the vectors' names (`tiny-gemma2/spatial`, `spatial`, `sae`): a row a vector; None: all, a row a
            concept.
        names_only: nothing but names, one a line.

    Raises:
        UserError: for a name that is no part of any vector's.
    """
    found = list(store.entries())
    if name is not None:
        known, found = found, [entry for entry in found if f"/{name.strip('/')}/" in f"/{entry.name}/"]
        if not found:
            raise _none_has(name, known)
    if names_only:
        yield from (entry.name for entry in found)
        return
    yield from _vectors(found) if name is not None else _concepts(found)
    yield f"\n{count_noun(len(found), 'vector')}; yours are kept in {store.user_store()}"


def _concepts(found: Sequence[Entry]) -> Iterator[str]:
    """Where yours and those that ship are of one concept, each has its row."""
    groups = groupby(found, lambda entry: (entry.name.rsplit("/", 1)[0], entry.origin))
    rows = [(concept, origin, [_method(entry) for entry in group]) for (concept, origin), group in groups]
    width = max((len(concept) for concept, _, _ in rows), default=0)
    yield from (f"{concept:{width}}  {origin:7}  {', '.join(methods)}" for concept, origin, methods in rows)


def _method(entry: Entry) -> str:
    method = entry.name.rsplit("/", 1)[1]
    return f"{method} (damaged)" if isinstance(_made(entry), UserError) else method


def _vectors(found: Sequence[Entry]) -> Iterator[str]:
    width = max(len(entry.name) for entry in found)
    for entry in found:
        made = _made(entry)
        told = f"damaged: {made}"
        if not isinstance(made, UserError):
            shape, anchors = format_shape(tuple(made["layers"]), made["hidden_size"]), made["settings"].get("anchors")
            told = f"{shape:22}  {'- anchors' if anchors is None else count_noun(anchors, 'anchor')}"
        yield f"{entry.name:{width}}  {entry.origin:7}  {told}"


def _made(entry: Entry) -> Mapping[str, Any] | UserError:
    try:
        return read_provenance(entry.path)
    except UserError as error:
        return error


def _none_has(name: str, known: Sequence[Entry]) -> UserError:
    near = get_close_matches(name.strip("/"), sorted(_parts(known, name)), n=1, cutoff=CLOSE)
    meant = f"did you mean {near[0]!r}? " if near else ""
    names = ", ".join(nearest_names(name, [entry.name for entry in known])) or "none"
    return UserError(f"no vector's name has {name!r} in it: {meant}the nearest: {names}")


def _parts(known: Sequence[Entry], like: str) -> set[str]:
    """What would have been right with as many slashes; those that share a part with it, where there are any."""
    typed = like.strip("/").split("/")
    split = [entry.name.split("/") for entry in known]
    n = len(typed)
    parts = {tuple(name[i : i + n]) for name in split for i in range(len(name) - n + 1)}
    near = {part for part in parts if set(part) & set(typed)}
    return {"/".join(part) for part in near or parts}
