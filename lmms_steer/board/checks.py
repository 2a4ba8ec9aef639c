"""The checks of an entry: the registry, and those that look at one entry and its baseline.

Each check is a function from a `Case` to an `Outcome`, registered with a sentence that says what it proves.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from lmms_steer._util.formatting import count_noun
from lmms_steer._util.json import read_json
from lmms_steer.board.case import BASELINE, Case
from lmms_steer.board.entry import SPEC, STUDY, EntryVector
from lmms_steer.board.rescoring import recomputed, unknown_metric
from lmms_steer.comparison.provenance import chosen_on_tasks, chosen_on_test
from lmms_steer.comparison.samples import filter_names
from lmms_steer.errors import UserError, reason, shorten
from lmms_steer.harness.task_files import our_tasks
from lmms_steer.registry import Registry
from lmms_steer.statistics.power import detectable_gain
from lmms_steer.steering.row_vectors import is_row_vector
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.steering_vectors import SteeringVectors

PASSED, FAILED, UNKNOWN, NOT_NEEDED = "passed", "failed", "unknown", "not needed"
REFUSE, SHOW, OFF = "refuse", "show", "off"
CONTROLS = "controls"
"""The check that looks at the entries beside one."""
_TOLERANCE = 1e-6
_ONE_SIDED = 0.025
"""Level of a one-sided test that finds what a two-sided 95% interval does."""


@dataclass(frozen=True)
class Outcome:
    """What a check found.

    Attributes:
        status: passed, failed, unknown (it could not be checked), or not needed.
        detail: a line; "" where there is nothing to say.
    """

    status: str
    detail: str = ""


@dataclass(frozen=True)
class Check:
    """A registered check.

    Attributes:
        description: what it proves.
        run: the check; None for `CONTROLS`, which needs the other entries (`lmms_steer.board.reading`).
        default: what a new board does with an entry that fails: refuse or show.
    """

    description: str
    run: Callable[[Case], Outcome] | None
    default: str = REFUSE


checks: Registry[Check] = Registry("check", "lmms_steer.board_checks", ("lmms_steer.board.checks",))


def register_check(
    name: str, description: str, default: str = REFUSE
) -> Callable[[Callable[[Case], Outcome]], Callable[[Case], Outcome]]:
    """Register a check.

    Args:
        name: as in `leaderboard.yaml`.
        description: a sentence that says what a passed check proves.
        default: what a new board does with an entry that fails.
    """

    def register(run: Callable[[Case], Outcome]) -> Callable[[Case], Outcome]:
        checks.add(name, Check(description, run, default))
        return run

    return register


@register_check("files", "Every file is as it was when the entry was added.")
def check_files(case: Case) -> Outcome:
    recorded = case.entry.files
    different = sorted(name for name in {*recorded, *case.hashes} if recorded.get(name) != case.hashes.get(name))
    return Outcome(FAILED, f"changed since it was added: {', '.join(different)}") if different else Outcome(PASSED)


@register_check("scores", "The scores follow from the answers, and their mean is the harness's.")
def check_scores(case: Case) -> Outcome:
    samples, content = case.samples, case.samples.results.content
    counts = content.get("n-samples", {}).get(samples.task) or {}
    # with an offset lmms-eval counts more documents than there are
    expected = len(samples.keys) if (content.get("config") or {}).get("offset") else counts.get("effective")
    if expected not in (None, len(samples.keys)):
        return Outcome(FAILED, f"{len(samples.keys)} answers, the results file counts {expected}")
    if not math.isfinite(mean := float(samples.scores.mean())):
        infinite = int(np.count_nonzero(~np.isfinite(samples.scores)))
        found = f"{infinite} of {len(samples.keys)} scores are" if infinite else "the sum of the scores is"
        return Outcome(FAILED, f"{found} no finite number")
    if case.entry.task in our_tasks() and samples.task not in our_tasks():
        return Outcome(FAILED, f"{samples.task} is no task of this package, as {case.entry.task} is")
    if known := unknown_metric(samples.task, samples.metric):
        return Outcome(FAILED, f"{samples.task} has no score {shorten(samples.metric)!r}: it has {', '.join(known)}")
    reported = _reported_mean(case)
    # NaN is never close to the recorded mean
    if reported is not None and not abs(reported - mean) <= _TOLERANCE:
        return Outcome(FAILED, f"the scores' mean is {mean:.4f}, the results file says {reported:.4f}")
    about_mean = "mean is not compared" if reported is None else "mean is the harness's"
    again = recomputed(samples.task, samples.metric, case.answers)
    if again is None:
        return Outcome(UNKNOWN, f"{samples.metric} of {samples.task} cannot be recomputed; its {about_mean}")
    same = np.abs(again - samples.scores) <= _TOLERANCE
    different = np.flatnonzero(~same & ~np.isnan(again))
    if ranges := len(different):
        former = recomputed(samples.task, samples.metric, case.answers, formerly=True)
        assert former is not None
        different = different[~(np.abs(former - samples.scores)[different] <= _TOLERANCE)]
    if len(different):
        first = int(different[0])
        return Outcome(
            FAILED,
            f"{len(different)} of {len(again)} scores are not those of the answers, first of question"
            f" {samples.doc_ids[first]}: {samples.scores[first]:g}, recomputed {again[first]:g}",
        )
    if missing := int(np.isnan(again).sum()):
        return Outcome(FAILED, f"{missing} of {len(again)} scores cannot be recomputed from what the samples hold")
    if ranges:
        return Outcome(UNKNOWN, f"{ranges} of {len(again)} scores are of an earlier version, which read 2 from `2-3`")
    return Outcome(PASSED, f"{len(again)} scores recomputed{f'; their {about_mean}' if reported is None else ''}")


@register_check("pairing", "The baseline beside it has the same questions, prompts and decoding.")
def check_pairing(case: Case) -> Outcome:
    if case.role == BASELINE:
        return Outcome(NOT_NEEDED)
    return Outcome(FAILED, case.unpaired) if case.unpaired else Outcome(PASSED)


@register_check("vectors", "The vectors are those that the run's record names, and the spec is the run's.")
def check_vectors(case: Case) -> Outcome:
    recorded = case.record.get("vectors") or []
    if not case.record.get("spec"):
        return Outcome(NOT_NEEDED)
    try:
        spec = SteeringSpec.from_yaml(case.folder / SPEC)
        if str(spec) != str(SteeringSpec.parse(case.record["spec"])):
            return Outcome(FAILED, f"{SPEC} is not the spec of the run, {case.record['spec']}")
    except UserError as error:
        return Outcome(FAILED, str(error))
    named = case.entry.vectors
    if [one["sha256"] for one in recorded] != [one.sha256 for one in named]:
        return Outcome(FAILED, "the entry names other vectors than the run")
    for vector in named:
        if not vector.file:
            continue
        try:
            found = SteeringVectors.load(case.folder / vector.file).sha256
        except UserError as error:
            return Outcome(FAILED, f"{vector.file}: {error}")
        if found != vector.sha256:
            hashes = f"sha256 {found[:12]}, the run's {vector.sha256[:12]}"
            return Outcome(FAILED, f"{vector.file} is not {vector.name}: {hashes}")
    if lost := missing_vectors(spec, named):
        return Outcome(FAILED, f"neither there nor named by an address: {', '.join(lost)}")
    if gates := [one.gate_vector for one in spec.interventions if one.gate_vector is not None]:
        return Outcome(UNKNOWN, f"an entry does not hold the vector of a gate: {', '.join(gates)}")
    if elsewhere := [vector.address for vector in named if not vector.file and vector.address]:
        return Outcome(UNKNOWN, f"not read: {', '.join(elsewhere)}")
    return Outcome(PASSED)


@register_check("choice", "Layer, strength and tokens were chosen on other questions than these.")
def check_choice(case: Case) -> Outcome:
    if not case.record.get("spec"):
        return Outcome(NOT_NEEDED)
    record = case.record.get("provenance") or {}
    if chosen_on_test(case.samples):
        return Outcome(FAILED, "layer, alpha and tokens were chosen on questions that it is tested on")
    chosen_on = str(record.get("chosen_on") or "")
    if not chosen_on:
        return Outcome(UNKNOWN, "nothing says what layer, alpha and tokens were chosen on")
    if f"{STUDY}/plan.json" in case.hashes:
        try:
            plan = read_json(case.folder / STUDY / "plan.json")
            tried = plan["vectors"].values() if plan["task"] in chosen_on_tasks(record) else ()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return Outcome(FAILED, f"{STUDY}/plan.json cannot be read as a study's plan: {reason(error)}")
        if not {vector["sha256"] for vector in case.record.get("vectors") or ()} <= set(tried):
            return Outcome(FAILED, "its study is not of these vectors and this choice")
    return Outcome(PASSED, f"chosen on {chosen_on}")


checks.add(CONTROLS, Check("Controls are beside it, and it gains more than each of them.", None, SHOW))


@register_check("versions", "Harness, transformers and the model's revision are recorded, and the baseline's.", SHOW)
def check_versions(case: Case) -> Outcome:
    ours = case.record.get("versions") or {}
    if missing := [name for name in ("lmms-eval", "transformers") if name not in ours]:
        return Outcome(UNKNOWN, f"the run does not record the versions of {' and '.join(missing)}")
    if _numbers(ours["lmms-eval"]) > _numbers(version("lmms-eval")):
        newer = f"made with lmms-eval {ours['lmms-eval']}, newer than the {version('lmms-eval')} that checks it"
        return Outcome(UNKNOWN, newer)
    if case.baseline is not None:
        theirs = {**(case.baseline.record.get("versions") or {}), "revision": case.baseline.record.get("revision")}
        mine = {**ours, "revision": case.record.get("revision")}
        if different := [name for name in mine if name in theirs and mine[name] != theirs[name]]:
            pairs = (f"{name} {mine[name]}, the baseline's {theirs[name]}" for name in different)
            return Outcome(FAILED, "; ".join(pairs))
    return Outcome(PASSED, ", ".join(f"{name} {value}" for name, value in ours.items()))


@register_check("power", "There are enough questions for the gain to be seen at all.", SHOW)
def check_power(case: Case) -> Outcome:
    effect = case.effect
    if effect is None or case.role == "control":
        return Outcome(NOT_NEEDED)
    if not np.isfinite(case.changes).all():
        return Outcome(UNKNOWN, "a score is not finite")
    n, gain = len(case.changes), abs(float(effect.gain[0]))
    smallest, seen = _smallest_seen(case), effect.low[0] > 0 or effect.high[0] < 0
    about = "" if case.images is None else f" about {count_noun(int(case.images.max()) + 1, 'image')}"
    questions = f"in 4 of 5 runs on {n} questions{about}, of which {100 * np.mean(case.changes != 0):.1f}% changed"
    if math.isnan(smallest):
        return Outcome(PASSED if seen else FAILED, f"no gain would be seen {questions}")
    scores = case.samples.scores
    size = f"{100 * smallest:.1f} points" if scores.min() >= 0 and scores.max() <= 1 else f"{smallest:.3g}"
    return Outcome(PASSED if seen or gain >= smallest else FAILED, f"gains from {size} on are seen {questions}")


def _smallest_seen(case: Case) -> float:
    """The smallest gain whose interval is beyond 0 in 4 of 5 runs; NaN where no possible gain's is.

    The intervals are two-sided, and go by image where questions share them.
    """
    changes, images = case.changes, case.images
    if images is None and np.isin(changes, (-1, 0, 1)).all():
        return detectable_gain(len(changes), float(np.mean(changes != 0)), level=_ONE_SIDED)
    # the changes of all questions about an image, scaled so that the mean over images is the gain
    units = changes if images is None else np.bincount(images, changes) * (images.max() + 1) / len(images)
    largest = float(np.abs(units).max()) or 1.0
    square = float(np.mean((units / largest) ** 2))
    return largest * detectable_gain(len(units), square, level=_ONE_SIDED, most=math.sqrt(square))


def missing_vectors(spec: SteeringSpec, vectors: Sequence[EntryVector]) -> list[str]:
    """Names of an entry's vectors that are neither there nor elsewhere. Those of single questions are in no file."""
    computed = [number for number, one in enumerate(spec.interventions) if is_row_vector(one.vector)]
    return [
        vector.name
        for number, vector in enumerate(vectors)
        if not vector.file and not vector.address and number not in computed
    ]


def _reported_mean(case: Case) -> float | None:
    """The mean that the results file reports; None where it reports none, or another aggregation."""
    task, content = case.samples.task, case.samples.results.content
    metrics = content["results"].get(task) or {}
    config = (content.get("configs") or {}).get(task) or {}
    listed = [one for one in config.get("metric_list") or () if isinstance(one, dict)]
    names = [case.samples.metric, *(["acc"] if case.samples.metric == "score" else [])]
    for name in names:
        if any(one.get("metric") == name and one.get("aggregation", "mean") != "mean" for one in listed):
            return None
        means = {key: value for key, value in metrics.items() if key.startswith(f"{name},")}
        # the samples are the first filter's
        first = f"{name},{filter_names(task, content)[0]}"
        value = means.get(first, next(iter(means.values())) if len(means) == 1 else None)
        if isinstance(value, int | float):
            return float(value)
    return None


def _numbers(text: str) -> list[int]:
    return [int(part[:9]) for part in re.findall(r"\d+", text)[:3]]
