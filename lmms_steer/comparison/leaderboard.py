"""Whether two runs may be compared question by question.

Groups and tags of the tasks that were run.

The board: what each system scores on each task, and what its difference from the baseline is worth.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lmms_steer.comparison.samples import Ints, Samples
from lmms_steer.comparison.systems import System
from lmms_steer.errors import UserError
from lmms_steer.statistics.clustered import cluster_ids
from lmms_steer.statistics.paired import Effects, average_effects, task_effects


def pairing_problem(run: Samples, baseline: Samples, prompt_may_differ: bool = False) -> str:
    """Why a run's task cannot be paired with the baseline's; "" where it can.

    Args:
        run: what would be compared.
        baseline: with what.
        prompt_may_differ: for a system that is another prompt.
    """
    if not np.array_equal(run.keys, baseline.keys):
        common = len(np.intersect1d(run.keys, baseline.keys, assume_unique=True))
        return f"other samples: {common} of its {len(run.keys)} are among the baseline's {len(baseline.keys)}"
    seeds = _differing(run.results.seeds, baseline.results.seeds)
    if seeds:
        return f"other seeds: {seeds}"
    setting = _differing(_setting(run), _setting(baseline))
    if setting and not prompt_may_differ:
        return f"other prompts: {setting}"
    prompts = int((run.prompts != baseline.prompts).sum())
    if prompts and not prompt_may_differ:
        return f"other prompts: on {prompts} of {len(run.keys)} questions"
    shown = int(((run.images != baseline.images) & (run.images != 0) & (baseline.images != 0)).sum())
    if shown and run.images_by == baseline.images_by:
        return f"other images: on {shown} of {len(run.keys)} questions"
    if run.metric != baseline.metric:
        return f"another score: {run.metric or 'none'}, the baseline's is {baseline.metric or 'none'}"
    missing = int(np.isnan(run.scores + baseline.scores).sum())
    if missing:
        return f"no score on {missing} of {len(run.keys)} questions; --metric says what to compare by"
    return ""


def _setting(run: Samples) -> dict[str, Any]:
    """What shapes the prompt and is not in the logged text."""
    said = run.results.said
    return {
        "shots": said.get("n-shot", {}).get(run.task),
        "version of the task": said.get("versions", {}).get(run.task),
        "system instruction": said.get("system_instruction_sha"),
    }


def _differing(run: dict[str, Any], baseline: dict[str, Any]) -> str:
    return ", ".join(f"{key} {run[key]}, the baseline's {baseline[key]}" for key in run if run[key] != baseline[key])


def groups_of(runs: Iterable[Samples], known: set[str]) -> Iterator[tuple[str, str, list[str]]]:
    """(group or tag, name, its tasks) for each that any run tells of and that has two tasks or more among the known."""
    groups: dict[str, list[str]] = {}
    tags: dict[str, list[str]] = {}
    for run in runs:
        groups |= run.results.said.get("group_subtasks") or {}
        tag = run.results.said.get("configs", {}).get(run.task, {}).get("tag") or []
        for name in [tag] if isinstance(tag, str) else tag:
            tags.setdefault(name, []).append(run.task)
    seen = set()
    for scope, parts in (("group", groups), ("tag", tags)):
        for name in parts:
            tasks = sorted(_leaves(name, parts, set()) & known)
            if len(tasks) > 1 and (name, *tasks) not in seen:
                seen.add((name, *tasks))
                yield scope, name, tasks


def _leaves(name: str, parts: dict[str, list[str]], above: set[str]) -> set[str]:
    below = [part for part in parts.get(name, []) if part not in above]
    if not below:
        return {name}
    return set().union(*(_leaves(part, parts, above | {name}) for part in below))


NAN = math.nan


@dataclass(frozen=True)
class Row:
    """A number of the board. Shares are between 0 and 1; what does not apply is NaN, None or "".

    Attributes:
        scope: task, group or tag.
        n: questions.
        images: how many, where questions share them and the statistics go by image; else None.
        p_holm: p, corrected over all rows of the board.
        seconds: of the whole run that the row comes from.
        scale: 100 where all of the task's scores are shares, which are told in percent and points; else 1.
        refused: why it is not compared with the baseline.
        samples: where the number comes from.
    """

    task: str
    scope: str
    system: str
    role: str
    n: int
    score: float
    gain: float = NAN
    low: float = NAN
    high: float = NAN
    p: float = NAN
    p_holm: float = NAN
    p_exact: float = NAN
    test: str = ""
    fixed: int | None = None
    broken: int | None = None
    unparsed: float = NAN
    images: int | None = None
    seconds: float = NAN
    refused: str = ""
    scale: float = 1.0
    samples: tuple[Samples, ...] = field(default=(), repr=False)


def build_leaderboard(systems: dict[str, System]) -> list[Row]:
    """All rows, task by task, then groups and tags.

    Args:
        systems: the baseline first.

    Raises:
        UserError: where nothing can be compared with the baseline.
    """
    baseline = next(iter(systems.values()))
    paired: dict[str, dict[str, Samples]] = {}
    rows: list[Row] = []
    for task in dict.fromkeys(itertools.chain(*(system.tasks for system in systems.values()))):
        paired[task] = {}
        rows += _of_task(task, systems, baseline, paired[task])
    everything = [run for system in systems.values() for run in system.tasks.values()]
    for scope, name, tasks in groups_of(everything, set(baseline.tasks)):
        rows += _of_group(scope, name, tasks, systems, paired)
    refused = [f"{row.system} on {row.task}: {row.refused}" for row in rows if row.refused]
    if refused and not any(not math.isnan(row.p) for row in rows):
        raise UserError("nothing can be compared with the baseline: " + "; ".join(refused))
    return _scaled(_holm(rows))


def _of_task(task: str, systems: dict[str, System], baseline: System, paired: dict[str, Samples]) -> Iterator[Row]:
    """Fills `paired` with the systems that may be compared, the baseline's among them."""
    base = baseline.tasks.get(task)
    rows: dict[str, Row] = {}
    for system in (s for s in systems.values() if task in s.tasks):
        run = system.tasks[task]
        why = "the baseline was not asked" if base is None else pairing_problem(run, base, system.role == "prompted")
        if base is not None and not why:
            paired[system.name] = run
        rows[system.name] = Row(task, "task", system.name, system.role, **_plain((run,)), refused=why)
    others = [name for name in paired if name != baseline.name]
    if base is not None and others:
        images = shared_images([paired])
        differences = np.array([(paired[name].scores - base.scores) * base.better for name in others])
        found = task_effects(differences, images)
        for index, name in enumerate(others):
            rows[name] = _with(rows[name], found, index, base.better, images)
    yield from rows.values()


def _of_group(
    scope: str, name: str, tasks: list[str], systems: dict[str, System], paired: dict[str, dict[str, Samples]]
) -> Iterator[Row]:
    """Averages over tasks, each counting the same, of the systems that have all of them."""
    complete = [s for s in systems.values() if all(s.name in paired[task] for task in tasks)]
    if not complete:
        return
    rows = [Row(name, scope, s.name, s.role, **_plain(tuple(paired[task][s.name] for task in tasks))) for s in complete]
    base, *others = complete
    parts = [
        np.array([paired[task][s.name].scores - paired[task][base.name].scores for s in others])
        * paired[task][base.name].better
        for task in tasks
    ]
    yield rows[0]
    if others:
        images = shared_images([paired[task] for task in tasks])
        found = average_effects(parts, images)
        for index, row in enumerate(rows[1:]):
            yield _with(row, found, index, 1, images)


def _plain(samples: tuple[Samples, ...]) -> dict[str, Any]:
    """What needs no baseline."""
    return {
        "n": sum(len(run.keys) for run in samples),
        "score": float(np.mean([run.scores.mean() for run in samples])),
        "unparsed": float(np.mean([run.unparsed.mean() for run in samples])),
        "seconds": sum({run.results.sha256: run.results.seconds for run in samples}.values()),
        "samples": samples,
    }


def _with(row: Row, found: Effects, index: int, better: int, images: Ints | None) -> Row:
    low, high = sorted((better * float(found.low[index]), better * float(found.high[index])))
    return replace(
        row,
        gain=better * float(found.gain[index]),
        low=low,
        high=high,
        p=float(found.p[index]),
        p_exact=float(found.p_exact[index]),
        test=found.test,
        fixed=int(found.fixed[index]),
        broken=int(found.broken[index]),
        images=None if images is None else int(images.max()) + 1,
    )


def shared_images(tasks: list[dict[str, Samples]]) -> Ints | None:
    """The image of each question of the tasks in turn, as 0 …; None where no two share one, or no log says."""
    columns = []
    for number, runs in enumerate(tasks):
        logged = sorted(runs.values(), key=lambda run: run.images_by != "images")
        known = [run.images for run in logged if run.images.all()]
        count = len(next(iter(runs.values())).keys)
        # one and the same name for all is no name of an image
        usable = known and len(np.unique(known[0])) > 1
        columns.append(known[0] if usable else np.arange(count) - (number + 2) * 10_000_000)
    images = np.concatenate(columns)
    return cluster_ids(images)


def _scaled(rows: list[Row]) -> list[Row]:
    other = {row.task for row in rows for run in row.samples if run.scores.min() < 0 or run.scores.max() > 1}
    return [replace(row, scale=1.0 if row.task in other else 100.0) for row in rows]


def _holm(rows: list[Row]) -> list[Row]:
    """Holm's step-down correction over all p; by hand, as statsmodels takes two seconds to import."""
    tested = sorted((index for index, row in enumerate(rows) if not math.isnan(row.p)), key=lambda index: rows[index].p)
    worst = 0.0
    for rank, index in enumerate(tested):
        worst = min(1.0, max(worst, rows[index].p * (len(tested) - rank)))
        rows[index] = replace(rows[index], p_holm=worst)
    return rows
