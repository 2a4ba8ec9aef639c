"""The systems of a comparison: what each is, and its samples by task."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tqdm import tqdm

from lmms_steer.comparison.runs import Evaluation, RunResults, find_runs, read_results
from lmms_steer.comparison.samples import Samples, read_samples
from lmms_steer.errors import UserError, unknown_name

PROMPTED_SUFFIX = "_prompted"
"""The end of a task's name that asks the same questions with another prompt: a system, not a task."""


@dataclass(frozen=True)
class System:
    """A row of the board: `role` is baseline, prompted, steered, control or other."""

    name: str
    role: str
    tasks: dict[str, Samples] = field(default_factory=dict)


def read_systems(runs: Iterable[str], baseline: str | None = None, metric: str | None = None) -> dict[str, System]:
    """Read runs; the baseline comes first.

    Args:
        runs: folders, or NAME=FOLDER.
        baseline: its name or folder; found where unsaid.
        metric: what to compare by; each task's own where unsaid.

    Raises:
        UserError: for files that are not there or cut off, and where no baseline can be told.
    """
    given = list(runs)
    named = find_runs(given)
    if baseline and baseline not in named:
        more = find_runs([baseline]) if "=" in baseline or "/" in baseline or not named else {}
        named = {**{n: found for n, found in more.items() if found not in named.values()}, **named}
        same = [n for n, found in named.items() if more and found == next(iter(more.values()))]
        baseline = same[0] if same else baseline
    read = {}
    for name, evaluations in tqdm(named.items(), disable=None, desc="reading", unit="run"):
        read[name] = dict(_tasks(name, evaluations, metric))
    chosen = _baseline(read, baseline)
    ordered = {chosen: read.pop(chosen), **read}
    found: dict[str, System] = {}
    for name, tasks in ordered.items():
        for system in _split(name, tasks, chosen, set(ordered[chosen])):
            if system.name in found:
                raise UserError(f"two runs claim the name {system.name!r}; give one a name of its own, NAME=FOLDER")
            found[system.name] = system
    return found


def _tasks(name: str, evaluations: list[Evaluation], metric: str | None) -> Iterator[tuple[str, Samples]]:
    """The newest samples of each task."""
    newest: dict[str, RunResults] = {}
    for evaluation in evaluations:
        results = read_results(evaluation)
        newest.update(dict.fromkeys(evaluation.samples, results))
    if not newest:
        raise UserError(f"run {name!r} has no samples: evaluate with --log_samples")
    for task, results in newest.items():
        yield task, read_samples(results, task, metric)


def _baseline(read: dict[str, dict[str, Samples]], said: str | None) -> str:
    if said is not None:
        if said not in read:
            raise unknown_name("run for --baseline", said, read)
        return said
    if "baseline" in read:
        return "baseline"
    plain = [name for name, tasks in read.items() if _role(tasks) == "plain"]
    if len(plain) != 1:
        raise UserError(f"which run is the baseline? Say --baseline NAME, one of {', '.join(read)}")
    return plain[0]


def _role(tasks: dict[str, Samples]) -> str:
    """What a run is by its steering record."""
    record = next(iter(tasks.values())).results.steering
    if not record:
        return "other"
    if record.get("answer_bias"):
        return "control"
    if not record.get("spec"):
        return "plain"
    return "control" if "control=" in record["spec"] else "steered"


def _split(name: str, tasks: dict[str, Samples], baseline: str, asked: set[str]) -> Iterator[System]:
    """A run, and what it answered to other prompts, where the baseline was asked the same questions plainly."""
    prompted = {
        task: samples for task, samples in tasks.items() if task.removesuffix(PROMPTED_SUFFIX) in asked - {task}
    }
    plain = {task: samples for task, samples in tasks.items() if task not in prompted}
    role = "baseline" if name == baseline else _role(tasks).replace("plain", "other")
    if plain:
        yield System(name, role, plain)
    if prompted:
        called = "prompted" if name == baseline else f"{name}, prompted" if plain else name
        yield System(
            called, "prompted", {task.removesuffix(PROMPTED_SUFFIX): found for task, found in prompted.items()}
        )
