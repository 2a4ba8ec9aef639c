"""The systems of a comparison: the role of each, and its samples by task."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lmms_steer._util.formatting import count_noun
from lmms_steer._util.progress import progress_bar
from lmms_steer.comparison.identity import split_by_system
from lmms_steer.comparison.runs import Evaluation, RunResults, find_runs, read_results
from lmms_steer.comparison.samples import Samples, logged_names, read_samples
from lmms_steer.errors import UserError, unknown_name
from lmms_steer.models import BLANK
from lmms_steer.vectors.controls import CONTROLS

BLANK_SUFFIX = ", blank image"
"""What is added to the name of a run whose model was shown grey images."""
PROMPTED_SUFFIXES = ("_prompted_paper", "_prompted")
"""Ends of the names of tasks that ask another task's questions with another prompt: systems, not tasks."""
_NAMED = 6
"""How many runs a message names."""


@dataclass(frozen=True)
class System:
    """A system of the leaderboard.

    Attributes:
        name: unique in the comparison.
        role: baseline, prompted, steered, control or other.
        tasks: task ▸ its samples.
    """

    name: str
    role: str
    tasks: dict[str, Samples] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """The systems of a comparison, and what was left out of it.

    Attributes:
        systems: name ▸ system, the baseline first.
        left_out: runs and tasks of runs that could not be compared, a line each.
        no_runs: folders and files that are no runs, a line each.
    """

    systems: dict[str, System]
    left_out: tuple[str, ...] = ()
    no_runs: tuple[str, ...] = ()


def read_comparison(runs: Iterable[str], baseline: str | None = None, metric: str | None = None) -> Comparison:
    """Read the systems of a comparison. Runs without samples are left out.

    Args:
        runs: folders, or NAME=FOLDER.
        baseline: the name or folder of a run; default: the run named `baseline`, else the only unsteered one.
        metric: the score to compare by; default: each task's own.

    Raises:
        UserError: for files that are missing or cut off, if the baseline is not clear or left out, or if runs were left
            out and only one is left.
    """
    typed = find_runs(list(runs))
    found = split_by_system(typed.evaluations)
    if baseline and baseline not in found:
        extra = split_by_system(find_runs([baseline]).evaluations) if "=" in baseline or "/" in baseline else {}
        if len(extra) > 1:
            raise UserError(
                f"--baseline {baseline} holds {len(extra)} systems: give the name of one of {', '.join(extra)}"
            )
        found = {**{name: run for name, run in extra.items() if run not in found.values()}, **found}
        # a folder given as the baseline may be one of the runs, under another name
        same = [name for name, run in found.items() if extra and run == next(iter(extra.values()))]
        baseline = same[0] if same else baseline
    read: dict[str, dict[str, Samples]] = {}
    left_out: dict[str, str] = {}
    for name, evaluations in progress_bar(found.items(), desc="reading", unit="run"):
        newest = newest_results(evaluations)
        unlogged = [task for task, results in newest.items() if task not in results.evaluation.samples]
        if unlogged or not newest:
            of_tasks = f" of {', '.join(unlogged)}" if len(unlogged) < len(newest) else ""
            folder = evaluations[-1].results.parent
            left_out[name] = f"run {name!r} has no samples{of_tasks}: evaluate with --log_samples ({folder})"
        samples = {task: read_samples(newest[task], task, metric) for task in newest if task not in unlogged}
        if samples:
            read[name] = samples
    if metric is not None:
        _check_metric(metric, [one for tasks in read.values() for one in tasks.values()])
    lines = (*typed.empty, *left_out.values())
    # another run must not silently take the place of the one that is called baseline
    wanted = baseline or "baseline"
    if not read or (wanted in left_out and wanted not in read):
        raise UserError(left_out.get(wanted) or "; ".join(lines))
    chosen = _choose_baseline(read, baseline)
    ordered = {chosen: read.pop(chosen), **read}
    systems: dict[str, System] = {}
    for name, tasks in ordered.items():
        for system in _systems_of_run(name, tasks, chosen, set(ordered[chosen])):
            if system.name in systems:
                raise UserError(f"two runs have the name {system.name!r}; give one another name, NAME=FOLDER")
            systems[system.name] = system
    if lines and len(systems) == 1:
        raise UserError(f"nothing can be compared with {chosen}: {'; '.join(lines)}")
    return Comparison(systems, lines, typed.no_runs)


def _check_metric(metric: str, samples: Sequence[Samples]) -> None:
    """Refuse a score that no answer has, as a misspelt one."""
    if samples and all(np.isnan(one.scores).all() for one in samples):
        known = {name for one in samples for name in logged_names(one.read_one(0))}
        raise unknown_name("--metric", metric, known)


def newest_results(evaluations: list[Evaluation]) -> dict[str, RunResults]:
    """Read the newest results of each task of a run, with samples or without."""
    newest: dict[str, RunResults] = {}
    for evaluation in evaluations:
        results = read_results(evaluation)
        newest.update(dict.fromkeys([*evaluation.samples, *(results.content.get("configs") or ())], results))
    return newest


def _choose_baseline(read: dict[str, dict[str, Samples]], baseline: str | None) -> str:
    if baseline is not None:
        if baseline not in read:
            raise unknown_name("run for --baseline", baseline, read)
        return baseline
    if "baseline" in read:
        return "baseline"
    unsteered = [name for name, tasks in read.items() if role_of(tasks) == "unsteered"]
    if len(unsteered) != 1:
        names = unsteered or list(read)
        listed = ", ".join(names[:_NAMED])
        if len(names) > _NAMED:
            listed += f" and {count_noun(len(names) - _NAMED, 'other')}"
        found = "several runs are of an unsteered model" if unsteered else "no run is known to be of an unsteered model"
        raise UserError(f"{found}: give --baseline NAME (in Python, baseline=NAME), one of {listed}")
    return unsteered[0]


def role_of(tasks: dict[str, Samples]) -> str:
    """The role of a run by its steering record; `unsteered` for our models without a spec."""
    record = next(iter(tasks.values())).results.steering
    if not record:
        return "other"
    if record.get("answer_bias") or record.get("image") == BLANK:
        return "control"
    contrast = record.get("contrast")
    if isinstance(contrast, dict) and contrast.get("control"):
        return "control"
    if not record.get("spec"):
        return "other" if contrast else "unsteered"
    return "control" if "control=" in record["spec"] or _are_controls(record.get("vectors")) else "steered"


def _are_controls(vectors: Any) -> bool:
    """Whether a record's vectors are all controls that were extracted as such, such as `mean_shift-shuffled`."""
    origins = [one.get("provenance") for one in vectors if isinstance(one, dict)] if isinstance(vectors, list) else []
    methods = [str(one.get("method", "")) if isinstance(one, dict) else "" for one in origins]
    return bool(methods) and all(set(method.split("-")) & set(CONTROLS) for method in methods)


def _systems_of_run(name: str, tasks: dict[str, Samples], baseline: str, baseline_tasks: set[str]) -> Iterator[System]:
    """Split a run into itself and a prompted system, where the baseline has the same questions without the prompt."""
    prompted: dict[str, dict[str, Samples]] = {}
    rest: dict[str, Samples] = {}
    for task, samples in tasks.items():
        plain, suffix = split_prompted(task)
        if suffix and plain in baseline_tasks:
            prompted.setdefault(suffix.removeprefix("_"), {})[plain] = samples
        else:
            rest[task] = samples
    if next(iter(tasks.values())).results.steering.get("image") == BLANK:
        # a recipe calls the run of `vcd` with blank images `vcd-blank`
        name, baseline = f"{name.removesuffix(f'-{BLANK}')}{BLANK_SUFFIX}", f"{baseline}{BLANK_SUFFIX}"
    role = "baseline" if name == baseline else role_of(tasks).replace("unsteered", "other")
    if rest:
        yield System(name, role, rest)
    for variant, unprompted in prompted.items():
        alone = not rest and len(prompted) == 1
        # a random vector stays one with another prompt
        role = "control" if role_of(unprompted) == "control" else "prompted"
        yield System(variant if name == baseline else name if alone else f"{name}, {variant}", role, unprompted)


def split_prompted(task: str) -> tuple[str, str]:
    """Split the name of a task with another prompt into that of the plain task and the suffix; "" without one."""
    suffix = next((suffix for suffix in PROMPTED_SUFFIXES if task.endswith(suffix)), "")
    return task.removesuffix(suffix), suffix
