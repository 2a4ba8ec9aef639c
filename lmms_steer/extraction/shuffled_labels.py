"""The control of a method whose rows have permuted labels: which of them are anchors no longer says anything."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lmms_steer.extraction.activations import Activations
from lmms_steer.vectors.steering_vectors import SteeringVectors

FAR_FROM_ORTHOGONAL = 0.3
"""A control whose cosine with its vector is larger is noted. Over seeds, those of `spatial` have a spread of 0.3."""


def shuffle_labels(activations: Activations, seed: int) -> Activations:
    """Permute the labels of the rows: within each sentence, or over all rows for a concept with a contrast."""
    rows = np.concatenate([activations.anchors, activations.controls])
    places = (*activations.anchor_places, *activations.control_places)
    labels = np.repeat([True, False], [len(activations.anchors), len(activations.controls)])
    sentence = np.array([place.sentence for place in places])
    has_contrast = not set(activations.anchor_sentence.tolist()) & set(activations.control_sentence.tolist())
    groups = [np.arange(len(rows))] if has_contrast else [np.flatnonzero(sentence == s) for s in np.unique(sentence)]
    generator = np.random.default_rng(seed)
    for group in groups:
        labels[group] = generator.permutation(labels[group])
    anchor_places, control_places = (
        tuple(place for place, label in zip(places, labels.tolist(), strict=True) if label is wanted)
        for wanted in (True, False)
    )
    return replace(
        activations,
        anchors=rows[labels],
        controls=rows[~labels],
        anchor_places=anchor_places,
        control_places=control_places,
    )


def notes_of_shuffled(control: SteeringVectors, true: SteeringVectors) -> Iterator[str]:
    """A note where a control keeps or reverses a part of its vector by chance: it would gain or lose with it."""
    pairs = {layer: [v[layer].astype(np.float64).ravel() for v in (control, true)] for layer in control}
    cosines = {
        layer: float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
        for layer, (a, b) in pairs.items()
        if a.any() and b.any()
    }
    layer = max(cosines, key=lambda one: abs(cosines[one]), default=0)
    if abs(cosines.get(layer, 0.0)) > FAR_FROM_ORTHOGONAL:
        yield (
            f"{control.name}: its cosine with {true.name} is {cosines[layer]:+.2f} at layer {layer}: use another --seed"
            " for a control that has less of the vector"
        )
