"""Controls: vectors without the concept's meaning. An effect that they have too is not an effect of the concept.

    random[:SEED]            a random direction at each layer
    shuffled                 extracted like the vector, with the anchor labels at random tokens of the same sentence;
                             of a concept with a contrast, at random anchors of the concept and the contrast
    wrong_concept[:CONCEPT]  another concept's vector
    shuffled_images          for an image contrast: extracted like the vector, with the images of other questions

At each layer a control has the norm of the vector that it replaces.
"""

from collections.abc import Callable

import numpy as np

from lmms_steer.errors import UserError, shorten, unknown_name
from lmms_steer.vectors.steering_vectors import SteeringVectors
from lmms_steer.vectors.weights import same_weights

CONTROLS = ("random", "shuffled", "wrong_concept", "shuffled_images")
_MAX_DIGITS = 18
"""A longer seed is taken for a typing error."""
_OPTIONS = {"orthogonal_to_sha256": "--orthogonal_to", "at": "--at", "sae": "--sae", "paper_exact": "--paper-exact"}
"""Settings that a vector and its control must share, and their options."""


def parse_control(control: str) -> tuple[str, str]:
    """Split a control into kind and detail: `random:3` ▸ ("random", "3"); no detail is "".

    Raises:
        UserError: for a control that does not exist, or a seed that is not a whole number.
    """
    kind, _, detail = control.partition(":")
    if kind not in CONTROLS:
        raise unknown_name("control", kind, CONTROLS)
    if kind == "random" and detail and not (detail.isdecimal() and len(detail) <= _MAX_DIGITS):
        raise UserError(f"control={shorten(control)}: expected a seed, as in control=random:3")
    if kind in ("shuffled", "shuffled_images") and detail:
        raise UserError(f"control={control}: {kind!r} takes no detail; its seed is the one that it was extracted with")
    return kind, detail


def random_like(vectors: SteeringVectors, seed: int, draw: int = 0) -> SteeringVectors:
    """Random directions with the norms of the vector's, at the same layers.

    Args:
        vectors: what they are like.
        seed: of the directions.
        draw: tells the directions of several vectors apart that share a seed: one of them minus another would be none.
    """
    generator = np.random.default_rng([seed, draw] if draw else seed)
    directions = {layer: generator.standard_normal(vectors[layer].shape).astype(np.float32) for layer in vectors}
    settings = {"seed": seed, **({"draw": draw} if draw else {}), "norms_of": vectors.sha256}
    provenance = {**vectors.provenance, "method": f"random-{seed}", "settings": settings}
    return with_norms_of(vectors, SteeringVectors(directions, provenance))


def with_norms_of(vectors: SteeringVectors, other: SteeringVectors) -> SteeringVectors:
    """`other`'s directions with the norms of `vectors`, at the layers that both have.

    Where patches have directions of their own, each gets its norm.
    """
    directions = {}
    for layer in vectors:
        if layer in other.directions:
            direction = other[layer].astype(np.float64)
            if direction.ndim == 2:
                rows = np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-12)
                directions[layer] = direction / rows * np.linalg.norm(vectors[layer], axis=1, keepdims=True)
                continue
            norm = max(float(np.linalg.norm(direction)), 1e-12)
            directions[layer] = direction / norm * np.linalg.norm(vectors[layer])
    return SteeringVectors(directions, other.provenance)


def wrong_concept_name(concept: str, known: list[str], named: str = "") -> str:
    """The concept whose vector replaces another's: the named one, else the next one of another family, by name.

    A family is the part of the name before `-`: colour-red and colour-blue are of one family.

    Args:
        concept: the vector's own.
        known: all concepts.
        named: the user's choice, or "".

    Raises:
        UserError: when `named` is the vector's own concept, which is no control; when there is no other concept.
    """
    if named == concept:
        raise UserError(f"control=wrong_concept:{named} is the vector's own concept, and so no control: name another")
    if named:
        return named
    family = concept.split("-", maxsplit=1)[0]
    others = sorted(name for name in known if name.split("-")[0] != family)
    if not others:
        raise UserError(f"control=wrong_concept: there is no other concept than {concept!r}")
    later = [name for name in others if name > concept]
    return (later or others)[0]


def make_control(
    vectors: SteeringVectors, control: str, find: Callable[[str], SteeringVectors], known: list[str], draw: int = 0
) -> SteeringVectors:
    """The control that is attached in place of `vectors`.

    Args:
        vectors: the vector that the user named.
        control: in one of the forms of this module's docstring.
        find: loads a vector of the store by its name.
        known: all concepts, for `wrong_concept` without a name.
        draw: as in `random_like`.

    Raises:
        UserError: for a control that does not exist, is the vector itself, has no vector of its own in the store, or
            one that was made otherwise.
    """
    kind, detail = parse_control(control)
    if kind == "random":
        return random_like(vectors, int(detail or 0), draw)
    backbone, concept, method = (str(vectors.provenance.get(k, "unknown")) for k in ("model", "concept", "method"))
    if kind == "wrong_concept":
        wrong = wrong_concept_name(concept, known, detail)
        try:
            other = find(f"{backbone}/{wrong}/{method}")
        except UserError as error:
            unnamed = "" if detail else ", a concept of another family, because none was named"
            raise UserError(f"control={control} takes the vector of {wrong!r}{unnamed}: {error}") from error
    else:
        other = find(f"{backbone}/{concept}/{method}-{kind}")
        _check_origin(vectors, other, control)
    return with_norms_of(vectors, other)


def _check_origin(vectors: SteeringVectors, other: SteeringVectors, control: str) -> None:
    """Check that a stored control was extracted like the vector: it may be left from an earlier one of that name."""
    ours, theirs = (one.provenance.get("sentences_sha256") for one in (vectors, other))
    made, made_too = (one.provenance.get("settings", {}) for one in (vectors, other))
    problems = {
        "from other sentences than": ours is not None and theirs is not None and ours != theirs,
        "from other weights than": same_weights(vectors.provenance, other.provenance) is False,
        **{f"with another {option} than": made.get(key) != made_too.get(key) for key, option in _OPTIONS.items()},
    }
    for problem, applies in problems.items():
        if applies:
            raise UserError(
                f"control={control}: {other.name} was made {problem} {vectors.name}: extract it again, with the options"
                f" of that vector and --method {other.provenance.get('method')} --replace"
            )
