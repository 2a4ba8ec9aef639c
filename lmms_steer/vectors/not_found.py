"""Errors for names of no vector: another file, a missing backbone, a misspelt name, or a vector not extracted yet."""

from collections.abc import Collection
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path

from lmms_steer import concepts
from lmms_steer._util.io import exists, is_folder
from lmms_steer.concepts.loader import SUFFIXES
from lmms_steer.errors import UserError
from lmms_steer.tiny_world.checkpoints import SHIPPED_MODELS
from lmms_steer.vectors.backbones import backbone_of, short_name, table
from lmms_steer.vectors.methods import DEFAULT_METHOD, check_method

MAX_LISTED = 12
"""Of more known names than this an error lists only the nearest."""
NEAREST = 5
"""How many of the nearest names an error lists."""
MAX_COMPARED = 200
"""So many characters of a name are compared; the time grows with the square."""
CLOSE = 0.75
"""The similarity (of `difflib`) from which a name is suggested."""


def unknown_vector(name: str, backbone: str | None, known: Collection[str]) -> UserError:
    """The error for a name that is none of `known`.

    Args:
        name: what the user typed; not a path of a vector's file.
        backbone: of the model to be steered, for names that leave it out; None if it is not known, or without a model.
        known: `backbone/concept/method` of every vector.
    """
    parts = [part for part in name.split("/") if part]
    backbones = {*(short_name(model) for model in table().values()), *SHIPPED_MODELS, *(k.split("/")[0] for k in known)}
    known_concepts = {k.split("/")[1] for k in known} | set(concepts.names())
    if parts and parts[0] not in backbones | known_concepts and exists(Path(name)):
        return not_a_vector_file(name)
    has_backbone = bool(parts) and (parts[0] in backbones or _is_new_backbone(parts, backbone, known_concepts))
    if has_backbone:
        return _missing(name, parts[0], parts[1:], f"{parts[0]}/", backbones, known)
    if backbone is not None:
        return _missing(name, backbone, parts, "", backbones, known)
    matches = {k for k in known if f"/{'/'.join(parts)}/" in f"/{k}/"}
    # with a backbone before it, the name that was typed means the default method
    as_typed = {f"{k.split('/')[0]}/{'/'.join(parts)}" for k in matches if k.endswith(f"/{parts[-1]}/{DEFAULT_METHOD}")}
    if matches or (parts and parts[0] in known_concepts):
        command = (
            f"; to extract it from your own: {_extract_command('MODEL', parts, True)}"
            if parts[0] in concepts.names()
            else ""
        )
        return UserError(
            f"vector={name} leaves out the text backbone, which is not known here; give the whole name:"
            f" one of {_listed(name, as_typed or matches or known)}{command}"
        )
    # a name without a method means the default one
    default = {k.removesuffix(f"/{DEFAULT_METHOD}") for k in known if k.endswith(f"/{DEFAULT_METHOD}")}
    nearest = nearest_names(name, default or known, 1)
    close = [other for other in nearest if _similarity(name, other) >= CLOSE]
    return UserError(f"unknown vector {name!r}: {_suggestion(close)}known: {_listed(name, known)}")


def not_a_vector_file(name: str) -> UserError:
    """The error for a path that exists and is not a vector's file."""
    if name.endswith(SUFFIXES):
        return UserError(
            f"{name!r} is not a vector file; if these are a concept's sentences, extract their vector first"
            f" (lmms-steer extract --backbone MODEL --concept {name}), and give the concept's name"
        )
    kind = "is a folder, and no safetensors file" if is_folder(Path(name)) else "is no safetensors file"
    return UserError(f"{name!r} {kind}: expected a vector's file or name (lmms-steer vectors list)")


def nearest_names(name: str, known: Collection[str], most: int = NEAREST) -> list[str]:
    """The known names that are most similar as a whole or in a part, the most similar first."""
    return sorted(known, key=lambda k: (-_similarity(name, k), k))[:most]


def _missing(
    name: str, backbone: str, parts: list[str], prefix: str, backbones: Collection[str], known: Collection[str]
) -> UserError:
    """The error for a vector that a backbone does not have: a misspelt name, or a vector that is not extracted yet.

    Args:
        name: what the user typed.
        backbone: the backbone that the name or the model gives.
        parts: of the name, after the backbone.
        prefix: the backbone as the user typed it, with a slash, or "".
        backbones: the known ones.
        known: `backbone/concept/method` of every vector.
    """
    depth = max(len(parts), 1)
    own = {prefix + "/".join(k.split("/")[1 : 1 + depth]) for k in known if k.startswith(f"{backbone}/")}
    if len(parts) not in (1, 2) or (len(parts) == 2 and not _is_method(parts[1])):
        nearest = get_close_matches(name, sorted(own), n=1, cutoff=CLOSE) if parts else []
        return UserError(f"unknown vector {name!r}: {_suggestion(nearest)}known: {_listed(name, own or known)}")
    own_concepts = {k.split("/")[1] for k in known if k.startswith(f"{backbone}/")}
    of_models = _of_multimodal_models(backbone, parts, known)
    if of_models:
        return UserError(
            f"unknown vector {name!r}: it is not extracted from the text backbone {backbone}, only from the multimodal"
            f" model itself: write vector={' or vector='.join(of_models)}"
        )
    nearest, others = [], ""
    if backbone not in backbones:
        full_names = {"/".join(k.split("/")[: 1 + depth]) for k in known}
        nearest = get_close_matches(name, sorted(full_names), n=1, cutoff=CLOSE)
    elif parts[0] not in own_concepts and parts[0] not in concepts.names():
        close = get_close_matches(parts[0], sorted(own_concepts | set(concepts.names())), n=1)
        nearest = [prefix + "/".join((concept, *parts[1:])) for concept in close]
        others = f"known: {_listed(name, own)}; " if own else ""
    command = _extract_command(backbone, parts, backbone in backbones)
    otherwise = "otherwise " if nearest else ""
    own_concept = parts[0] not in concepts.names() and not nearest
    elsewhere = " (or in a folder of your own, by extract --store: then name its file)" if own_concept else ""
    stored = sorted(prefix + k.split("/", 1)[1] for k in known if k.startswith(f"{backbone}/{parts[0]}/"))
    elsewhere = elsewhere or (f" (stored: {', '.join(stored)})" if stored else "")
    missing = f"it is not extracted yet{elsewhere}: {command}"
    return UserError(f"unknown vector {name!r}: {_suggestion(nearest)}{others}{otherwise}{missing}")


def _of_multimodal_models(backbone: str, parts: list[str], known: Collection[str]) -> list[str]:
    """The vectors of this concept and method that were extracted from multimodal models with this text backbone."""
    rest = "/".join(parts)
    wanted = rest if len(parts) == 2 else f"{rest}/{DEFAULT_METHOD}"
    models = sorted(k.split("/")[0] for k in known if k.split("/", 1)[1] == wanted)
    return [f"{model}/{rest}" for model in models if model != backbone and backbone_of(model) == backbone]


def _is_new_backbone(parts: list[str], backbone: str | None, known_concepts: Collection[str]) -> bool:
    """Whether the first part of a name can only be an unknown backbone, and not a concept."""
    return len(parts) == 3 or (
        len(parts) == 2 and backbone is None and parts[0] not in known_concepts and not _is_method(parts[1])
    )


def _is_method(name: str) -> bool:
    try:
        check_method(name)
    except UserError:
        return False
    return True


def _extract_command(backbone: str, parts: list[str], is_known: bool) -> str:
    """The command that extracts a vector, with an explanation of what the user has to fill in."""
    concept, method = parts[0], parts[1] if len(parts) == 2 else DEFAULT_METHOD
    method_option = "" if method == DEFAULT_METHOD else f" --method {method}"
    explanations = [] if is_known else [f"{backbone}: its Hub id or folder"]
    if concept not in concepts.names():
        concept = f"{concept}.yaml"
        explanations.append(f"{concept}: your file of sentences")
    appendix = f" ({'; '.join(explanations)})" if explanations else ""
    return f"lmms-steer extract --backbone {backbone} --concept {concept}{method_option}{appendix}"


def _suggestion(nearest: list[str]) -> str:
    return f"did you mean {nearest[0]!r}? " if nearest else ""


def _listed(name: str, known: Collection[str]) -> str:
    """All known names, or the nearest of too many."""
    if len(known) <= MAX_LISTED:
        return ", ".join(sorted(known)) or "none"
    return f"{', '.join(nearest_names(name, known))}, … ({len(known)} are known: lmms-steer vectors list)"


def _similarity(name: str, known: str) -> float:
    """The ratio of `difflib` to the known name or to its most similar part."""
    return max(SequenceMatcher(None, name[:MAX_COMPARED], part).ratio() for part in (known, *known.split("/")))
