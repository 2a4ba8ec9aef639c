"""`lmms-steer vectors list`: a row per concept, a row per vector, or only names."""

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

_SHAPE_WIDTH = 22
"""Minimum width of the column of layers and widths."""


def listing_lines(name: str | None, names_only: bool) -> Iterator[str]:
    """List the vectors of the stores; yields lines for the user to read.

    Args:
        name: a part of names (`tiny-gemma2/spatial`, `spatial`, `sae`), or if none has that part, a text in names
            (`green`): a row per matching vector; None: all vectors, with a row per concept.
        names_only: print only names, one per line.

    Raises:
        UserError: for a name that is in no vector's name.
    """
    entries = list(store.entries())
    if name is not None:
        known, typed = entries, name.strip("/")
        # `sae` means that method, and not `sae_denoised` too
        whole = [entry for entry in known if f"/{typed}/" in f"/{entry.name}/"]
        entries = whole or [entry for entry in known if typed in entry.name]
        if not entries:
            raise _no_match(name, known)
    if names_only:
        yield from (entry.name for entry in entries)
        return
    yield from _vector_rows(entries) if name is not None else _concept_rows(entries)
    yield f"\n{count_noun(len(entries), 'vector')}; yours are in {store.user_store()}"


def _concept_rows(entries: Sequence[Entry]) -> Iterator[str]:
    """A row per concept; two rows for a concept of which both stores have vectors."""
    groups = groupby(entries, lambda entry: (entry.name.rsplit("/", 1)[0], entry.origin))
    rows = [(concept, origin, [_method_cell(entry) for entry in group]) for (concept, origin), group in groups]
    width = max((len(concept) for concept, _, _ in rows), default=0)
    yield from (f"{concept:{width}}  {origin:7}  {', '.join(methods)}" for concept, origin, methods in rows)


def _method_cell(entry: Entry) -> str:
    method = entry.name.rsplit("/", 1)[1]
    return f"{method} (damaged)" if isinstance(_provenance(entry), UserError) else method


def _vector_rows(entries: Sequence[Entry]) -> Iterator[str]:
    width = max(len(entry.name) for entry in entries)
    read = [(entry, _provenance(entry)) for entry in entries]
    shapes = {entry: _shape(found) for entry, found in read if not isinstance(found, UserError)}
    shape_width = max([_SHAPE_WIDTH, *map(len, shapes.values())])
    for entry, provenance in read:
        if isinstance(provenance, UserError):
            details = f"damaged: {provenance}"
        else:
            anchors = provenance["settings"].get("anchors")
            counted = "- anchors" if anchors is None else count_noun(anchors, "anchor")
            details = f"{shapes[entry]:{shape_width}}  {counted}"
        yield f"{entry.name:{width}}  {entry.origin:7}  {details}"


def _shape(provenance: Mapping[str, Any]) -> str:
    return format_shape(tuple(provenance["layers"]), provenance["hidden_size"], provenance.get("patches"))


def _provenance(entry: Entry) -> Mapping[str, Any] | UserError:
    try:
        return read_provenance(entry.path)
    except UserError as error:
        return error


def _no_match(name: str, known: Sequence[Entry]) -> UserError:
    near = get_close_matches(name.strip("/"), sorted(_possible_parts(known, name)), n=1, cutoff=CLOSE)
    suggestion = f"did you mean {near[0]!r}? " if near else ""
    names = ", ".join(nearest_names(name, [entry.name for entry in known])) or "none"
    return UserError(f"no vector's name contains {name!r}: {suggestion}the nearest: {names}")


def _possible_parts(known: Sequence[Entry], name: str) -> set[str]:
    """Parts of known names with as many slashes as `name`; if some share a part with it, only those."""
    typed = name.strip("/").split("/")
    split = [entry.name.split("/") for entry in known]
    n = len(typed)
    parts = {tuple(words[i : i + n]) for words in split for i in range(len(words) - n + 1)}
    near = {part for part in parts if set(part) & set(typed)}
    return {"/".join(part) for part in near or parts}
