"""Check whether SAE features mean the concept: stored verdicts first, the judge for the others."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from lmms_steer.errors import UserError
from lmms_steer.extraction.activations import Activations
from lmms_steer.extraction.job import ExtractionJob
from lmms_steer.extraction.neuronpedia import SITE_VARIABLE, Explanations
from lmms_steer.extraction.sae_contexts import Contexts, neutral_concept
from lmms_steer.extraction.sae_judge import Judge, JudgeQuestion, LlmJudge, get_judge
from lmms_steer.extraction.sae_source import Sae
from lmms_steer.extraction.sae_verdicts import UNCHECKED, Verdict, Verdicts

_PARALLEL_REQUESTS = 4


class FeatureCheck:
    """Verdicts on the candidate features of a concept, layer by layer, with counts for the user.

    Args:
        job: the concept, and in its settings the judge.
        activations: of the concept.
    """

    def __init__(self, job: ExtractionJob, activations: Activations) -> None:
        self._job = job
        self._judge: Judge = get_judge(job.settings.judge)
        self._stored = Verdicts(job.model, job.concept.name, sentences_sha256=job.concept.sentences_sha256)
        # only a judge needs contexts
        has_judge = job.settings.judge != "none"
        self._contexts = Contexts(activations, job.read(neutral_concept(job))) if has_judge else None
        self._explanations = Explanations()
        self._counts: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()

    def verdicts(self, reader: Sae, features: list[int]) -> dict[int, Verdict]:
        """The verdict on each of one layer's features.

        Raises:
            UserError: when Neuronpedia is down; the verdicts that were reached are stored.
        """
        if self._contexts is None:
            verdicts = {feature: self._judge(JudgeQuestion(self._job.concept, "", [], None)) for feature in features}
        else:
            verdicts = {f: verdict for f in features if (verdict := self._stored.get(reader.name, f)) is not None}
            unjudged = [feature for feature in features if feature not in verdicts]
            for feature, verdict, contexts in self._ask(reader, unjudged, self._contexts):
                verdicts[feature] = self._stored.add(reader.name, feature, verdict, contexts)
            self._refuse_outage()
        for verdict in verdicts.values():
            self._counts[{True: "kept", False: "dropped", None: "unchecked"}[verdict.means_concept]] += 1
            if verdict.means_concept is None:
                self._reasons[verdict.reason] += 1
        return verdicts

    def _refuse_outage(self) -> None:
        outage = self._explanations.outage
        if outage is not None and self._job.settings.judge == "llm":
            raise UserError(
                f"{self._job.concept.name}: Neuronpedia does not answer ({outage}): run the command again when it does,"
                f" which keeps the verdicts in {str(self._stored.path)!r}, or set {SITE_VARIABLE}=none to check SAE"
                " features without its explanations"
            )

    def note(self) -> str:
        """One line for the user; a warning with a remedy if the judge could not check all features."""
        line = f"{self._job.concept.name}: {self.summary()}"
        if not self._counts["unchecked"] or self._job.settings.judge == "ask":
            return line
        if self._explanations.failed:
            remedy = "extract again when Neuronpedia answers, which checks only the unchecked features"
            return f"WARNING: {line}: {remedy}, or set {SITE_VARIABLE}=none to check them without its explanations"
        has_endpoint = isinstance(self._judge, LlmJudge)
        remedy = "extract again when its endpoint answers" if has_endpoint else "set OPENAI_API_KEY and extract again"
        return f"WARNING: {line}: {remedy}, or use --judge ask (you check them) or --judge none (all are kept)"

    def summary(self) -> str:
        """The number of features with each verdict, and why some were not checked."""
        counts = [f"{self._counts[key]} {key}" for key in ("kept", "dropped") if self._counts[key]]
        if self._reasons:
            reason = self._reasons.most_common(1)[0][0]
            counts.append(f"{self._counts['unchecked']} {UNCHECKED} ({reason})")
        line = f"SAE features: {', '.join(counts) or 'none fires on two anchors'}"
        return "; ".join(filter(None, [line, self._explanations.summary()]))

    def _ask(self, reader: Sae, features: list[int], contexts: Contexts) -> Iterator[tuple[int, Verdict, list[str]]]:
        """Feature, verdict and the contexts that the judge saw, one by one as they are judged."""
        if not features:
            return
        activations = reader.encode(contexts.rows(reader.layer))
        shown = {feature: contexts.strongest(activations[:, feature]) for feature in features}

        def ask(feature: int) -> Verdict:
            explanation = self._explanations.of(reader.neuronpedia, feature)
            if explanation.problem and self._job.settings.judge == "llm":
                # a stored verdict is final, and this one would rest on less than the others
                return Verdict(None, f"Neuronpedia did not answer: {explanation.problem}", "none")
            label = f"layer {reader.layer}, feature {feature}"
            return self._judge(JudgeQuestion(self._job.concept, label, shown[feature], explanation.text))

        if self._job.settings.judge == "ask":
            yield from ((feature, ask(feature), shown[feature]) for feature in features)
            return
        with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
            for feature, verdict in zip(features, pool.map(ask, features), strict=True):
                yield feature, verdict, shown[feature]
