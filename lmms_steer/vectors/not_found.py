"""Why a name reaches no vector: it is another file, its backbone was not said, it is misspelt or not extracted yet."""

from collections.abc import Collection
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path

from lmms_steer import concepts
from lmms_steer.errors import UserError
from lmms_steer.tiny_world.checkpoints import TINY_MODELS
from lmms_steer.vectors.backbones import short_name, table
from lmms_steer.vectors.methods import DEFAULT_METHOD, check_method

LISTED, NEAREST, CLOSE = 12, 5, 0.75


def unknown_vector(name: str, backbone: str | None, known: Collection[str]) -> UserError:
    """The error for a name that is none of `known`.

    Args:
        name: what the user typed, a vector's file aside.
        backbone: of the model to be steered, for names that leave it out; None: not known, or there is no model.
        known: `backbone/concept/method` of every vector.
    """
    parts = [part for part in name.split("/") if part]
    backbones = {*(short_name(model) for model in table().values()), *TINY_MODELS, *(k.split("/")[0] for k in known)}
    there = {k.split("/")[1] for k in known} | set(concepts.names())
    if parts and parts[0] not in backbones | there and Path(name).exists():
        return not_a_vector_file(name)
    said = parts[:1] if parts and (parts[0] in backbones or _is_new_backbone(parts, backbone, there)) else []
    backbone, parts = (said[0] if said else backbone), parts[len(said) :]
    if backbone is None:
        alike = {k for k in known if f"/{'/'.join(parts)}/" in f"/{k}/"}
        if alike or (parts and parts[0] in there):
            return UserError(
                f"vector={name} leaves out the text backbone, which is not known here: one of"
                f" {_listed(name, alike or known)}"
            )
        meant = [
            k for k in nearest_names(name, {k.rsplit("/", 1)[0] for k in known}, 1) if _part_likeness(name, k) >= CLOSE
        ]
        return UserError(f"unknown vector {name!r}: {_meant(meant)}known: {_listed(name, known)}")
    depth = max(len(parts), 1)
    own = {"/".join((*said, *k.split("/")[1 : 1 + depth])) for k in known if k.startswith(f"{backbone}/")}
    if len(parts) not in (1, 2) or (len(parts) == 2 and not _is_method(parts[1])):
        nearest = get_close_matches(name, sorted(own), n=1, cutoff=CLOSE) if parts else []
        return UserError(f"unknown vector {name!r}: {_meant(nearest)}known: {_listed(name, own or known)}")
    theirs = {k.split("/")[1] for k in known if k.startswith(f"{backbone}/")}
    if backbone not in backbones:
        whole = {"/".join(k.split("/")[: 1 + depth]) for k in known}
        nearest, others = get_close_matches(name, sorted(whole), n=1, cutoff=CLOSE), ""
    elif parts[0] in theirs or parts[0] in concepts.names():
        nearest, others = [], ""
    else:
        close = get_close_matches(parts[0], sorted(theirs | set(concepts.names())), n=1)
        nearest = ["/".join((*said, concept, *parts[1:])) for concept in close]
        others = f"; known: {_listed(name, own)}" if own else ""
    command = _command(backbone, parts, backbone in backbones)
    otherwise = "otherwise " if nearest else ""
    return UserError(f"unknown vector {name!r}: {_meant(nearest)}{otherwise}it is not extracted yet: {command}{others}")


def _is_new_backbone(parts: list[str], backbone: str | None, there: Collection[str]) -> bool:
    """Whether a name of a model that nobody heard of stands first, and not a concept."""
    return len(parts) == 3 or (
        len(parts) == 2 and backbone is None and parts[0] not in there and not _is_method(parts[1])
    )


def _is_method(name: str) -> bool:
    try:
        check_method(name)
    except UserError:
        return False
    return True


def _command(backbone: str, parts: list[str], is_known: bool) -> str:
    concept, method = parts[0], parts[1] if len(parts) == 2 else DEFAULT_METHOD
    wanted = "" if method == DEFAULT_METHOD else f" --method {method}"
    open_ = [] if is_known else [f"{backbone}: its Hub id or folder"]
    if concept not in concepts.names():
        concept = f"{concept}.yaml"
        open_.append(f"{concept}: your file of sentences")
    said = f" ({'; '.join(open_)})" if open_ else ""
    return f"lmms-steer extract --backbone {backbone} --concept {concept}{wanted}{said}"


def _meant(nearest: list[str]) -> str:
    return f"did you mean {nearest[0]!r}? " if nearest else ""


def _listed(name: str, known: Collection[str]) -> str:
    """All of a dozen; of more, the nearest."""
    if len(known) <= LISTED:
        return ", ".join(sorted(known)) or "none"
    return f"{', '.join(nearest_names(name, known))}, … ({len(known)} are known: lmms-steer vectors list)"


def nearest_names(name: str, known: Collection[str], most: int = NEAREST) -> list[str]:
    """The names that are likest as a whole or in a part, the likest first."""
    return sorted(known, key=lambda k: (-_part_likeness(name, k), k))[:most]


def not_a_vector_file(name: str) -> UserError:
    """The error for a path that exists and is none."""
    kind = "is a folder, and no safetensors file" if Path(name).is_dir() else "is no safetensors file"
    return UserError(f"{name!r} {kind}: expected a vector's file or name (lmms-steer vectors list)")


def _part_likeness(name: str, known: str) -> float:
    return max(SequenceMatcher(None, name, part).ratio() for part in (known, *known.split("/")))
