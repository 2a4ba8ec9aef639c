"""Vectors that mean nothing, made to be compared with: an effect that they have too is no effect of the concept."""

import numpy as np

from lmms_steer.vectors import SteeringVectors


def random_like(vectors: SteeringVectors, seed: int) -> SteeringVectors:
    """At each layer a random direction of the same norm as the vector's."""
    generator = np.random.default_rng(seed)
    directions = {}
    for layer in vectors:
        drawn = generator.standard_normal(vectors.hidden_size)
        directions[layer] = drawn / np.linalg.norm(drawn) * np.linalg.norm(vectors[layer])
    settings = {"seed": seed, "norms_of": vectors.sha256}
    return SteeringVectors(directions, {**vectors.provenance, "method": f"random-{seed}", "settings": settings})
