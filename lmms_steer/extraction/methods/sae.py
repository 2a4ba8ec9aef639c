"""Which features fire on a concept's anchors, and the direction that the kept ones have in common.

The two methods that need an SAE: `sae`, the paper's (section 3.1), and `sae_denoised`.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from lmms_steer.errors import UserError
from lmms_steer.extraction.activations import Activations, Rows
from lmms_steer.extraction.methods import ExtractionJob, MethodResult
from lmms_steer.extraction.sae_contexts import Contexts, Explanations, neutral_concept
from lmms_steer.extraction.sae_judge import Judge, JudgeQuestion, LlmJudge, Verdict, Verdicts, get_judge
from lmms_steer.extraction.sae_source import Sae, SaeSource

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


def candidate_features(activations: Rows, silent_too: bool = False) -> list[Candidate]:
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


def mean_direction(decoder: Rows, features: list[int]) -> npt.NDArray[np.float64]:
    """The mean of the features' unit decoder rows, unit norm: float64 [width]. decoder: [features, width]."""
    rows = decoder[features].astype(np.float64)
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(0)
    unit: npt.NDArray[np.float64] = mean / np.linalg.norm(mean)
    return unit


def separating_features(anchors: Rows, controls: Rows, most: int) -> npt.NDArray[np.int64]:
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


DENOISED_FEATURES = 32
_AT_ONCE = 4
_LIBRARIES = ("sae-lens",)


def sae(activations: Activations, job: ExtractionJob) -> MethodResult:
    """At each layer with an SAE: features that fire on anchors ▸ the check ▸ unit mean of the kept decoder rows.

    Features that nobody could check stay in the vector, and are counted in a note and named in the provenance.

    Raises:
        UserError: where no feature of any layer is kept.
    """
    source, exact = SaeSource(job), job.settings.paper_exact
    checked = _Check(job, activations)
    directions: dict[int, Any] = {}
    features: dict[str, Any] = {}
    for layer in tqdm(source.layers, desc=f"{job.concept.name} sae", disable=None, leave=False):
        if exact and layer == 0:
            continue  # the released code reads a layer's input, and the first one's is no layer's output
        reader = source.load(layer)
        fired = reader.encode(activations.anchors[:, layer - 1 if exact else layer], without_threshold=exact)
        found = candidate_features(fired, silent_too=exact)
        verdicts = checked(reader, found)
        kept = [c.feature for c in found if verdicts[c.feature].means is not False]
        features[str(layer)] = {"sae": reader.name, "features": [_told(c, verdicts[c.feature]) for c in found]}
        if kept:
            directions[layer] = mean_direction(reader.decoder, kept)
    if not directions:
        raise UserError(
            f"concept {job.concept.name!r}: no feature of {source.named!r} is left at any layer ({checked.told()})"
        )
    settings = {"sae": source.named, "paper_exact": exact, "judge": job.settings.judge, "layers": features}
    return MethodResult(directions, settings, (checked.note(),), _LIBRARIES)


def sae_denoised(activations: Activations, job: ExtractionJob) -> MethodResult:
    """The mean shift rebuilt from the 32 features that best part anchors from controls, in the residual's own units.

    `v_l = sum_f (mean f(anchors) - mean f(controls)) · W_dec[f]` over those features.
    """
    source = SaeSource(job)
    directions = {}
    for layer in source.layers:
        reader = source.load(layer)
        anchors, controls = (reader.encode(rows[:, layer]) for rows in (activations.anchors, activations.controls))
        chosen = separating_features(anchors, controls, DENOISED_FEATURES)
        shift = anchors[:, chosen].astype(np.float64).mean(0) - controls[:, chosen].astype(np.float64).mean(0)
        if np.any(shift):
            directions[layer] = shift @ reader.decoder[chosen].astype(np.float64)
    if not directions:
        raise UserError(f"concept {job.concept.name!r}: no feature of {source.named!r} fires on its sentences")
    return MethodResult(directions, {"sae": source.named, "features": DENOISED_FEATURES}, (), _LIBRARIES)


class _Check:
    """Verdicts for a layer's candidates: those on file, the judge's for the others."""

    def __init__(self, job: ExtractionJob, activations: Activations) -> None:
        self._job = job
        self._judge: Judge = get_judge(job.settings.judge)
        self._filed = Verdicts(job.model, job.concept.name)
        # nobody looks at contexts that nobody judges
        sees = job.settings.judge != "none"
        self._contexts = Contexts(activations, job.read(neutral_concept(job))) if sees else None
        self._explanations = Explanations()
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def __call__(self, reader: Sae, found: list[Candidate]) -> dict[int, Verdict]:
        if self._contexts is None:
            said = {c.feature: self._judge(JudgeQuestion(self._job.concept, "", [], None)) for c in found}
        else:
            said = {c.feature: v for c in found if (v := self._filed.get(reader.name, c.feature)) is not None}
            open_ones = [c.feature for c in found if c.feature not in said]
            for feature, verdict, contexts in self._asked(reader, open_ones, self._contexts):
                said[feature] = self._filed.add(reader.name, feature, verdict, contexts)
        for verdict in said.values():
            self._counts[{True: "kept", False: "dropped", None: "unchecked"}[verdict.means]] += 1
            if verdict.means is None:
                self._reasons[verdict.reason] += 1
        return said

    def _asked(self, reader: Sae, features: list[int], contexts: Contexts) -> Iterator[tuple[int, Verdict, list[str]]]:
        if not features:
            return
        fired = reader.encode(contexts.rows(reader.layer))
        shown = {feature: contexts.strongest(fired[:, feature]) for feature in features}

        def ask(feature: int) -> Verdict:
            explanation = self._explanations.of(reader.neuronpedia, feature)
            name = f"layer {reader.layer}, feature {feature}"
            return self._judge(JudgeQuestion(self._job.concept, name, shown[feature], explanation))

        if self._job.settings.judge == "ask":
            yield from ((feature, ask(feature), shown[feature]) for feature in features)
            return
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for feature, verdict in zip(features, pool.map(ask, features), strict=True):
                yield feature, verdict, shown[feature]

    def note(self) -> str:
        """One line for the user: a warning with what to do where features were left unchecked that nobody looked at."""
        line = f"{self._job.concept.name}: {self.told()}"
        if not self._counts["unchecked"] or self._job.settings.judge == "ask":
            return line
        has_endpoint = isinstance(self._judge, LlmJudge)
        remedy = "when its endpoint answers, extract again" if has_endpoint else "set OPENAI_API_KEY and extract again"
        return f"WARNING: {line}: {remedy}, or say --judge ask (you check them) or --judge none (all are kept)"

    def told(self) -> str:
        """The counts, and why some features were not checked."""
        counts = [f"{self._counts[key]} {key}" for key in ("kept", "dropped") if self._counts[key]]
        if self._reasons:
            reason = self._reasons.most_common(1)[0][0]
            counts.append(f"{self._counts['unchecked']} UNCHECKED and left in the vector ({reason})")
        return f"SAE features: {', '.join(counts) or 'none fires on two anchors'}"


def _told(candidate: Candidate, verdict: Verdict) -> dict[str, Any]:
    return {
        "feature": candidate.feature,
        "count": candidate.count,
        "score": candidate.score,
        "means": verdict.means,
        "by": verdict.by,
    }
