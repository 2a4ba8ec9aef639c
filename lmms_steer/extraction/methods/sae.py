"""The two methods that read sparse autoencoders: `sae`, the paper's (section 3.1), and `sae_denoised`."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lmms_steer._util.formatting import format_layers
from lmms_steer._util.progress import progress_bar
from lmms_steer.errors import UserError
from lmms_steer.extraction.activations import Rows
from lmms_steer.extraction.methods import Activations, ExtractionJob, MethodResult, register_method
from lmms_steer.extraction.sae_check import FeatureCheck
from lmms_steer.extraction.sae_source import SaeSource
from lmms_steer.extraction.sae_verdicts import Verdict

TOP_PER_ANCHOR = 20
"""How many of its strongest features each anchor lists (the paper's value)."""
MAX_CANDIDATES = 16
"""How many candidate features a layer has at most (the paper's value)."""
MIN_ANCHORS = 2
"""How many anchors must list a feature to make it a candidate (the paper's value)."""
DENOISED_FEATURES = 32
"""How many features `sae_denoised` rebuilds the mean shift from."""
_LIBRARIES = ("sae-lens",)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A feature that fires on anchors.

    Attributes:
        feature: its number in the SAE.
        count: how many anchors have it among their 20 strongest features.
        score: the sum over those anchors of 1 - (rank - 1) / 20; rank 1 is the anchor's strongest feature.
    """

    feature: int
    count: int
    score: float


@register_method(
    "sae",
    description="mean decoder direction of the features of a sparse autoencoder (SAE) that fire on anchors",
    uses_sae=True,
    uses_judge=True,
)
def sae(activations: Activations, job: ExtractionJob) -> MethodResult:
    """At each layer with an SAE: find features that fire on anchors, check them, average the kept decoder rows.

    Features that could not be checked stay in the vector; a note counts them, and the provenance names them. A layer of
    which no feature is left has no direction; a note names it.

    With `paper_exact` the features are ranked as in the paper's released `get_features_sae.py`: its layer l reads the
    residual at the input of block l, with the SAE of the output, and a feature that does not fire can still be listed
    where fewer than 20 fire. The thresholds of JumpReLU stay: that code sets them to 0 only in the models that
    intervene, where adding a direction does not depend on them.

    Raises:
        UserError: when no feature of any layer is kept.
    """
    source, exact = SaeSource(job), job.settings.paper_exact
    check = FeatureCheck(job, activations)
    directions: dict[int, Any] = {}
    features: dict[str, Any] = {}
    for layer in progress_bar(source.layers, desc=f"{job.concept.name} sae", leave=False):
        if exact and layer == 0:
            continue  # the released code reads a layer's input, and the input of layer 0 is no layer's output
        reader = source.load(layer)
        fired = reader.encode(activations.anchors[:, layer - 1 if exact else layer])
        candidates = candidate_features(fired, include_silent=exact)
        verdicts = check.verdicts(reader, [candidate.feature for candidate in candidates])
        kept = [c.feature for c in candidates if verdicts[c.feature].means_concept is not False]
        features[str(layer)] = {"sae": reader.name, "features": [_row(c, verdicts[c.feature]) for c in candidates]}
        if kept:
            directions[layer] = mean_direction(reader.decoder, kept)
    if not directions:
        raise UserError(
            f"concept {job.concept.name!r}: no feature of {source.name!r} is left at any layer ({check.summary()})"
        )
    empty = tuple(layer for layer in map(int, features) if layer not in directions)
    settings = {"sae": source.name, "paper_exact": exact, "judge": job.settings.judge, "layers": features}
    notes = [f"{job.concept.name}: no SAE feature is left at layer {format_layers(empty)}"] if empty else []
    return MethodResult(directions, settings, (check.note(), *notes), _LIBRARIES)


@register_method("sae_denoised", description="mean shift rebuilt from the most separating SAE features", uses_sae=True)
def sae_denoised(activations: Activations, job: ExtractionJob) -> MethodResult:
    """The mean shift, rebuilt from the 32 features that best separate anchors from controls, in the residual's units.

    `v_l = sum_f (mean f(anchors) - mean f(controls)) · W_dec[f]` over those features.

    Raises:
        UserError: when no feature fires on the concept's sentences; for an SAE that scales each token before it reads
            it, so that its features have other units.
    """
    source = SaeSource(job)
    directions = {}
    for layer in source.layers:
        reader = source.load(layer)
        if reader.normalizes:
            raise UserError(
                f"{reader.name} reads activations after {reader.normalizes}: its features are not in the residual's"
                " units, and sae_denoised needs them so; use --method sae, or another SAE"
            )
        anchors, controls = (reader.encode(rows[:, layer]) for rows in (activations.anchors, activations.controls))
        chosen = separating_features(anchors, controls, DENOISED_FEATURES)
        shift = anchors[:, chosen].astype(np.float64).mean(0) - controls[:, chosen].astype(np.float64).mean(0)
        if np.any(shift):
            directions[layer] = shift @ reader.decoder[chosen].astype(np.float64)
    if not directions:
        raise UserError(f"concept {job.concept.name!r}: no feature of {source.name!r} fires on its sentences")
    return MethodResult(directions, {"sae": source.name, "features": DENOISED_FEATURES}, (), _LIBRARIES)


def candidate_features(activations: Rows, include_silent: bool = False) -> list[Candidate]:
    """The 16 features of the highest rank-weighted score among those that two or more anchors list.

    Args:
        activations: [anchors, features].
        include_silent: also list features of activation 0 where fewer than 20 fire (the released code's ranking).
    """
    top = min(TOP_PER_ANCHOR, activations.shape[1])
    counts: dict[int, int] = {}
    scores: dict[int, float] = {}
    for row in activations:
        strongest = np.argsort(-row, kind="stable")[:top]
        for place, feature in enumerate(strongest.tolist()):
            if row[feature] > 0 or include_silent:
                counts[feature] = counts.get(feature, 0) + 1
                scores[feature] = scores.get(feature, 0.0) + 1.0 - place / top
    candidates = [Candidate(f, counts[f], round(scores[f], 6)) for f in scores if counts[f] >= MIN_ANCHORS]
    return sorted(candidates, key=lambda c: (-c.score, c.feature))[:MAX_CANDIDATES]


def mean_direction(decoder: Rows, features: list[int]) -> npt.NDArray[np.float64]:
    """The mean of the features' unit decoder rows, unit norm: float64 [width]. decoder: [features, width]."""
    rows = decoder[features].astype(np.float64)
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0)
    unit: npt.NDArray[np.float64] = mean / np.linalg.norm(mean)
    return unit


def separating_features(anchors: Rows, controls: Rows, most: int) -> npt.NDArray[np.int64]:
    """The features that best separate anchors from controls: of the largest |difference of means| / pooled deviation.

    Args:
        anchors, controls: activations [rows, features].
        most: how many to return; features that fire on neither are never among them.

    Returns:
        Feature numbers, best first.
    """
    a, c = anchors.astype(np.float64), controls.astype(np.float64)
    spread = np.sqrt((a.var(0) + c.var(0)) / 2)
    separation = np.abs(a.mean(0) - c.mean(0)) / np.maximum(spread, 1e-9)
    fires = (a.max(0) > 0) | (c.max(0) > 0)
    best = np.argsort(-np.where(fires, separation, -1.0), kind="stable")[:most]
    chosen: npt.NDArray[np.int64] = best[fires[best]]
    return chosen


def _row(candidate: Candidate, verdict: Verdict) -> dict[str, Any]:
    """A candidate and its verdict, as in the provenance."""
    return {
        "feature": candidate.feature,
        "count": candidate.count,
        "score": candidate.score,
        "means": verdict.means_concept,
        "by": verdict.by,
    }
