"""Which features fire on a concept's anchors, and the direction that the kept ones have in common."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lmms_steer.extraction.activations import Rows

TOP_OF_ANCHOR, MOST, LEAST_COUNT = 20, 16, 2
"""The paper's: features listed an anchor, candidates a layer, anchors that must list a candidate."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A feature that fires on anchors.

    Attributes:
        feature: its number in the SAE.
        count: the anchors among whose strongest 20 features it is.
        score: over those anchors, the sum of 1 - (rank - 1) / 20, rank 1 being the anchor's strongest.
    """

    feature: int
    count: int
    score: float


def candidates(activations: Rows, silent_too: bool = False) -> list[Candidate]:
    """The 16 features of the highest rank-weighted score among those that two or more anchors list.

    Args:
        activations: [anchors, features].
        silent_too: also list features of activation 0 where fewer than 20 fire (the released code's ranking).
    """
    top = min(TOP_OF_ANCHOR, activations.shape[1])
    counts: dict[int, int] = {}
    scores: dict[int, float] = {}
    for row in activations:
        strongest = np.argsort(-row, kind="stable")[:top]
        for place, feature in enumerate(strongest.tolist()):
            if row[feature] > 0 or silent_too:
                counts[feature] = counts.get(feature, 0) + 1
                scores[feature] = scores.get(feature, 0.0) + 1.0 - place / top
    listed = [Candidate(f, counts[f], round(scores[f], 6)) for f in scores if counts[f] >= LEAST_COUNT]
    return sorted(listed, key=lambda c: (-c.score, c.feature))[:MOST]


def direction(decoder: Rows, features: list[int]) -> npt.NDArray[np.float64]:
    """The mean of the features' unit decoder rows, unit norm: float64 [width]. decoder: [features, width]."""
    rows = decoder[features].astype(np.float64)
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0)
    unit: npt.NDArray[np.float64] = mean / np.linalg.norm(mean)
    return unit


def separating(anchors: Rows, controls: Rows, most: int) -> npt.NDArray[np.int64]:
    """The features that best part anchors from controls: of the largest |difference of means| / pooled deviation.

    Args:
        anchors, controls: activations [rows, features].
        most: how many; features that fire on neither are never among them.
    """
    a, c = anchors.astype(np.float64), controls.astype(np.float64)
    spread = np.sqrt((a.var(0) + c.var(0)) / 2)
    apart = np.abs(a.mean(0) - c.mean(0)) / np.maximum(spread, 1e-9)
    fires = (a.max(0) > 0) | (c.max(0) > 0)
    best = np.argsort(-np.where(fires, apart, -1.0), kind="stable")[:most]
    chosen: npt.NDArray[np.int64] = best[fires[best]]
    return chosen
