"""The leaderboard: each system's score on each task, and its gain over the baseline with interval and p-value."""

import itertools
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from lmms_steer.comparison.blank_runs import with_blank_runs_apart
from lmms_steer.comparison.pairing import pairing_problem, shared_images
from lmms_steer.comparison.samples import READINGS, Samples
from lmms_steer.comparison.settings import Difference, check_kinds, setting_differences
from lmms_steer.comparison.systems import System
from lmms_steer.errors import UserError
from lmms_steer.statistics import Ints
from lmms_steer.statistics.paired import Effects, average_effects, task_effects


@dataclass(frozen=True)
class OtherReading:
    """What another reading of the same answers gives.

    Attributes:
        score: the mean score.
        gain: the mean difference from the baseline by this reading; NaN where there is none.
        lost: answers that score less than by the row's own metric.
        won: answers that score more.
    """

    score: float
    gain: float = math.nan
    lost: int = 0
    won: int = 0


@dataclass(frozen=True)
class LeaderboardRow:
    """One system on one task, group or tag. Shares are between 0 and 1; what does not apply is NaN, None or "".

    Attributes:
        task: the name of the task, group or tag.
        scope: task, group or tag.
        system: its name.
        role: its role (see `System`).
        n: questions.
        score: the mean score; of a group or tag the mean over its tasks.
        gain: the mean difference from the baseline, question by question.
        low: the lower end of its 95% interval.
        high: the upper end.
        p: the p-value of the gain, by `test`.
        p_holm: p, corrected over all rows of the leaderboard.
        p_exact: McNemar's exact p, for answers that are right or wrong and do not share images.
        test: the name of the test.
        fixed: questions that score better than with the baseline.
        broken: questions that score worse.
        unparsed: the share of answers that could not be read.
        empty: the share of empty answers.
        yes: the share of answers that say yes, where every question's label is yes or no.
        yes_labels: the share of labels that are yes, likewise.
        words: the mean length of an answer in words.
        recall: the mean share of an image's objects that a caption mentions.
        divergence: how far answers are from the plain model's, in nats (`lmms_steer.models.divergence`); infinite where
            a logit was not finite, NaN where it was not measured.
        images: the number of images, where questions share them and the statistics go by image; else None.
        seconds: the duration of the whole runs that the row comes from.
        readings: name of `READINGS` ▸ what that reading of the answers gives, where all tasks log it.
        refused: why the system is not compared with the baseline; "" if it is.
        differences: settings other than the system's own in which it differs from the baseline.
        blank: the same system with a grey image in place of each, compared with the baseline's run of that kind; None
            without such a run.
        scale: 100 if all scores of the task are shares, which are shown in percent and points; else 1.
        samples: the samples that the row was computed from.
    """

    task: str
    scope: str
    system: str
    role: str
    n: int
    score: float
    gain: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    p_holm: float = math.nan
    p_exact: float = math.nan
    test: str = ""
    fixed: int | None = None
    broken: int | None = None
    unparsed: float = math.nan
    empty: float = math.nan
    yes: float = math.nan
    yes_labels: float = math.nan
    words: float = math.nan
    recall: float = math.nan
    divergence: float = math.nan
    images: int | None = None
    seconds: float = math.nan
    readings: dict[str, OtherReading] = field(default_factory=dict)
    refused: str = ""
    differences: tuple[Difference, ...] = ()
    blank: "LeaderboardRow | None" = field(default=None, repr=False)
    scale: float = 1.0
    samples: tuple[Samples, ...] = field(default=(), repr=False)

    @property
    def direction(self) -> int:
        """1 where more is better, -1 where less is."""
        return self.samples[0].direction if self.samples else 1

    @property
    def different(self) -> str:
        """The kinds of settings that differ and were allowed to, `prompts, decoding`; "" for a refused system."""
        kinds = dict.fromkeys(one.kind for one in self.differences if one.decisive)
        return "" if self.refused else ", ".join(kinds).replace("_", " ")


def build_leaderboard(systems: dict[str, System], allowed: Collection[str] = ()) -> list[LeaderboardRow]:
    """Compare all systems with the baseline.

    Args:
        systems: name ▸ system, the baseline first.
        allowed: kinds of differences from the baseline that do not prevent a comparison (`settings.DECISIVE`).

    Returns:
        The rows, task by task, then groups and tags.

    Raises:
        UserError: for an unknown kind, or if no system can be compared with the baseline.
    """
    check_kinds(allowed)
    seeing, blank = with_blank_runs_apart(systems)
    rows = _compared_rows(seeing, allowed)
    refused = [f"{row.system} on {row.task}: {row.refused}" for row in rows if row.refused]
    if refused and all(math.isnan(row.p) for row in rows):
        raise UserError("nothing can be compared with the baseline: " + "; ".join(refused))
    beside = {(row.scope, row.task, row.system): row for row in (_compared_rows(blank, allowed) if blank else [])}
    rows = [replace(row, blank=beside.get((row.scope, row.task, row.system))) for row in rows]
    return _scaled(_holm_corrected(rows))


def _compared_rows(systems: dict[str, System], allowed: Collection[str]) -> list[LeaderboardRow]:
    """Compare systems with the first of them on every task, group and tag."""
    baseline = next(iter(systems.values()))
    paired: dict[str, dict[str, Samples]] = {}
    rows: list[LeaderboardRow] = []
    for task in dict.fromkeys(itertools.chain(*(system.tasks for system in systems.values()))):
        task_rows, paired[task] = _task_rows(task, systems, baseline, allowed)
        rows += task_rows
    runs = [run for system in systems.values() for run in system.tasks.values()]
    for scope, name, tasks in groups_of(runs, set(baseline.tasks)):
        rows += _group_rows(scope, name, tasks, systems, paired, rows)
    return rows


def groups_of(runs: Iterable[Samples], known: set[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Find the groups and tags that have at least two of the known tasks.

    Args:
        runs: their results files record groups, and their tasks' configurations tags.
        known: names of tasks.

    Yields:
        "group" or "tag", its name, its known tasks.
    """
    groups: dict[str, list[str]] = {}
    tags: dict[str, list[str]] = {}
    for run in runs:
        groups |= run.results.content.get("group_subtasks") or {}
        tag = run.results.content.get("configs", {}).get(run.task, {}).get("tag") or []
        for name in [tag] if isinstance(tag, str) else tag:
            tags.setdefault(name, []).append(run.task)
    seen = set()
    for scope, members in (("group", groups), ("tag", tags)):
        for name in members:
            tasks = sorted(_tasks_below(name, members) & known)
            if len(tasks) > 1 and (name, *tasks) not in seen:
                seen.add((name, *tasks))
                yield scope, name, tasks


def _task_rows(
    task: str, systems: dict[str, System], baseline: System, allowed: Collection[str]
) -> tuple[list[LeaderboardRow], dict[str, Samples]]:
    """Compare on one task; also returns the samples of the systems that can be compared, the baseline included."""
    base = baseline.tasks.get(task)
    rows: dict[str, LeaderboardRow] = {}
    paired: dict[str, Samples] = {}
    for system in systems.values():
        if task not in system.tasks:
            continue
        run = system.tasks[task]
        problem, differences = "the baseline was not evaluated on it", list[Difference]()
        if base is not None:
            differences = setting_differences(run, base) if run is not base else []
            problem = pairing_problem(run, base, differences, allowed, text_may_differ=run.task != task)
        if not problem:
            paired[system.name] = run
        row = _unpaired_row(task, "task", system, (run,), problem)
        rows[system.name] = replace(row, differences=tuple(differences))
    others = [name for name in paired if name != baseline.name]
    if base is not None and others:
        images = shared_images([paired])
        changes = np.array([(paired[name].scores - base.scores) * base.direction for name in others])
        effects = task_effects(changes, images)
        for index, name in enumerate(others):
            row = _with_effect(rows[name], effects, index, base.direction, images)
            rows[name] = _with_reading_gains(row, rows[baseline.name])
    return list(rows.values()), paired


def _group_rows(
    scope: str,
    name: str,
    tasks: list[str],
    systems: dict[str, System],
    paired: dict[str, dict[str, Samples]],
    task_rows: list[LeaderboardRow],
) -> list[LeaderboardRow]:
    """Average over tasks, each counting the same, for the systems that can be compared on all of them.

    There are no rows if more is better on some tasks and less on others, or if they are scored in different units: such
    a mean says nothing.
    """
    runs = [run for task in tasks for run in paired[task].values()]
    directions = {run.direction for run in runs}
    shares = [_are_shares(paired[task].values()) for task in tasks]
    if len(directions) > 1 or len(set(shares)) > 1 or (not all(shares) and len({run.metric for run in runs}) > 1):
        return []
    of_tasks = [row for row in task_rows if row.scope == "task" and row.task in tasks]
    complete = [system for system in systems.values() if all(system.name in paired[task] for task in tasks)]
    rows = [
        replace(
            _unpaired_row(name, scope, system, tuple(paired[task][system.name] for task in tasks)),
            differences=tuple(
                dict.fromkeys(one for row in of_tasks if row.system == system.name for one in row.differences)
            ),
        )
        for system in complete
    ]
    if len(complete) < 2:
        return rows
    base, *others = complete
    (direction,) = directions
    differences = [
        np.array([paired[task][system.name].scores - paired[task][base.name].scores for system in others]) * direction
        for task in tasks
    ]
    images = shared_images([paired[task] for task in tasks])
    effects = average_effects(differences, images)
    compared = [_with_effect(row, effects, index, direction, images) for index, row in enumerate(rows[1:])]
    return [rows[0], *(_with_reading_gains(row, rows[0]) for row in compared)]


def _unpaired_row(
    name: str, scope: str, system: System, samples: tuple[Samples, ...], refused: str = ""
) -> LeaderboardRow:
    """Fill in what needs no baseline."""
    return LeaderboardRow(
        task=name,
        scope=scope,
        system=system.name,
        role=system.role,
        n=sum(len(run.keys) for run in samples),
        score=float(np.mean([run.scores.mean() for run in samples])),
        unparsed=float(np.mean([run.unparsed.mean() for run in samples])),
        empty=float(np.mean([run.empty.mean() for run in samples])),
        yes=float(np.mean([run.yes.mean() for run in samples])),
        yes_labels=float(np.mean([run.yes_labels.mean() for run in samples])),
        words=float(np.mean([run.words.mean() for run in samples])),
        recall=float(np.mean([run.recall.mean() for run in samples])),
        divergence=float(np.mean([_divergence(run) for run in samples])),
        seconds=sum({run.results.sha256: run.results.seconds for run in samples}.values()),
        readings={
            name: OtherReading(
                score=float(np.mean([run.readings[name].mean() for run in samples])),
                lost=sum(int((run.readings[name] < run.scores).sum()) for run in samples),
                won=sum(int((run.readings[name] > run.scores).sum()) for run in samples),
            )
            for name in READINGS
            if all(name in run.readings for run in samples)
        },
        refused=refused,
        samples=samples,
    )


def _divergence(run: Samples) -> float:
    measured = run.results.steering.get("divergence", {}).get(run.task)
    return math.nan if measured is None else float(measured.get("nats", math.inf))


def _with_reading_gains(row: LeaderboardRow, base: LeaderboardRow) -> LeaderboardRow:
    """Fill in the gains by the other readings of the answers, for a row that is compared with the baseline's."""
    readings = {
        name: replace(reading, gain=reading.score - base.readings[name].score) if name in base.readings else reading
        for name, reading in row.readings.items()
    }
    return replace(row, readings=readings)


def _with_effect(
    row: LeaderboardRow, effects: Effects, index: int, direction: int, images: Ints | None
) -> LeaderboardRow:
    """Fill in a system's effect; where less is better, gains are negative and the interval's ends change places."""
    low, high = sorted((direction * float(effects.low[index]), direction * float(effects.high[index])))
    return replace(
        row,
        gain=direction * float(effects.gain[index]),
        low=low,
        high=high,
        p=float(effects.p[index]),
        p_exact=float(effects.p_exact[index]),
        test=effects.test,
        fixed=int(effects.fixed[index]),
        broken=int(effects.broken[index]),
        images=None if images is None else int(images.max()) + 1,
    )


def _scaled(rows: list[LeaderboardRow]) -> list[LeaderboardRow]:
    """Fill in the scales. A row that is not compared has its own, and does not change that of the others."""
    compared: dict[str, list[Samples]] = {}
    for row in rows:
        if not row.refused:
            compared.setdefault(row.task, []).extend(row.samples)
    shares = {task: _are_shares(runs) for task, runs in compared.items()}
    return [
        replace(row, scale=100.0 if (_are_shares(row.samples) if row.refused else shares[row.task]) else 1.0)
        for row in rows
    ]


def _are_shares(runs: Iterable[Samples]) -> bool:
    """Whether all scores are from 0 to 1, so that their mean can be shown in percent."""
    return not any(run.scores.min() < 0 or run.scores.max() > 1 for run in runs)


def _holm_corrected(rows: list[LeaderboardRow]) -> list[LeaderboardRow]:
    """Apply Holm's step-down correction over all p; statsmodels has it, but takes two seconds to import."""
    corrected = list(rows)
    tested = sorted((i for i, row in enumerate(rows) if not math.isnan(row.p)), key=lambda i: rows[i].p)
    largest = 0.0
    for rank, i in enumerate(tested):
        largest = min(1.0, max(largest, rows[i].p * (len(tested) - rank)))
        corrected[i] = replace(rows[i], p_holm=largest)
    return corrected


def _tasks_below(name: str, members: dict[str, list[str]]) -> set[str]:
    """Resolve nested groups. Each is visited once: groups may contain themselves, and each other in many ways."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        member = waiting.pop()
        if member not in seen:
            seen.add(member)
            waiting += members.get(member, [])
    return {member for member in seen if not set(members.get(member, [])) - {member}}
