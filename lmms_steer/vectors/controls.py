"""Vectors that mean nothing, made to be compared with: an effect that they have too is no effect of the concept.

    random[:SEED]            at each layer a random direction
    shuffled                 made like the vector, but the anchor labels stand at random tokens of the same sentence
    wrong_concept[:CONCEPT]  another concept's vector

All have, at each layer, the norm of the vector that they stand beside.
"""

from collections.abc import Callable

import numpy as np

from lmms_steer.errors import UserError, shorten, unknown_name
from lmms_steer.vectors.steering_vectors import SteeringVectors

CONTROLS = ("random", "shuffled", "wrong_concept")
_DIGITS = 18
"""A longer seed is a slip of the keyboard."""


def parse_control(control: str) -> tuple[str, str]:
    """`random:3` ▸ ("random", "3"); what is not said is "".

    Raises:
        UserError: for a control that does not exist, or a seed that is no whole number.
    """
    kind, _, detail = control.partition(":")
    if kind not in CONTROLS:
        raise unknown_name("control", kind, CONTROLS)
    if kind == "random" and detail and not (detail.isdecimal() and len(detail) <= _DIGITS):
        raise UserError(f"control={shorten(control)}: expected a seed, as in control=random:3")
    if kind == "shuffled" and detail:
        raise UserError(f"control={control}: 'shuffled' takes nothing more; its seed is the one it was extracted with")
    return kind, detail


def random_like(vectors: SteeringVectors, seed: int) -> SteeringVectors:
    """At each layer a random direction of the same norm as the vector's."""
    generator = np.random.default_rng(seed)
    drawn = {layer: generator.standard_normal(vectors.hidden_size).astype(np.float32) for layer in vectors}
    settings = {"seed": seed, "norms_of": vectors.sha256}
    made = SteeringVectors(drawn, {**vectors.provenance, "method": f"random-{seed}", "settings": settings})
    return with_norms_of(vectors, made)


def with_norms_of(vectors: SteeringVectors, other: SteeringVectors) -> SteeringVectors:
    """`other`'s directions with the norms of `vectors`, at the layers that both have."""
    directions = {}
    for layer in vectors:
        if layer in other.directions:
            direction = other[layer].astype(np.float64)
            length = max(float(np.linalg.norm(direction)), 1e-12)
            directions[layer] = direction / length * np.linalg.norm(vectors[layer])
    return SteeringVectors(directions, other.provenance)


def wrong_concept_name(concept: str, known: list[str], named: str = "") -> str:
    """The concept that stands in for another: the one that is named, else the next of another family, by name.

    Raises:
        UserError: for the concept itself, whose vector by any method is no control, or where there is no other.
    """
    if named == concept:
        raise UserError(f"control=wrong_concept:{named} is the vector's own concept, and no control: name another")
    if named:
        return named
    family = concept.split("-", maxsplit=1)[0]
    others = sorted(name for name in known if name.split("-")[0] != family)
    if not others:
        raise UserError(f"control=wrong_concept: there is no concept but {concept!r}")
    later = [name for name in others if name > concept]
    return (later or others)[0]


def make_control(
    vectors: SteeringVectors, control: str, find: Callable[[str], SteeringVectors], known: list[str]
) -> SteeringVectors:
    """What is attached in place of `vectors`.

    Args:
        vectors: what the user named.
        control: one of the forms in this module's docstring.
        find: loads a vector of the store by its name.
        known: the concepts that there are, for `wrong_concept` without a name.

    Raises:
        UserError: for a control that does not exist, is the vector itself, or has no vector of its own in the store.
    """
    kind, detail = parse_control(control)
    if kind == "random":
        return random_like(vectors, int(detail or 0))
    backbone, concept, method = (str(vectors.provenance.get(k, "unknown")) for k in ("model", "concept", "method"))
    if kind == "wrong_concept":
        other = find(f"{backbone}/{wrong_concept_name(concept, known, detail)}/{method}")
    else:
        other = find(f"{backbone}/{concept}/{method}-shuffled")
    return with_norms_of(vectors, other)
