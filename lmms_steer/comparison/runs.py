"""Find evaluations in the output folders of lmms-eval and lm-eval, name them, and read their results files."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_steer._util.io import read_limited
from lmms_steer._util.json import MAX_BYTES, parse_json
from lmms_steer.comparison.results_shape import checked_results
from lmms_steer.errors import UserError, printable, reason

_LM_EVAL_STAMP = r"(?P<stamp>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)"
_LAYOUTS = {
    "lmms-eval": (
        re.compile(r"(?P<stamp>.+)_results\.json"),
        re.compile(r"(?P<stamp>.+?)_samples_(?P<task>.+)\.jsonl"),
    ),
    "lm-eval": (
        re.compile(rf"(?:.+_)?{_LM_EVAL_STAMP}\.json"),
        re.compile(rf"samples_(?P<task>.+)_{_LM_EVAL_STAMP}\.jsonl"),
    ),
}
"""harness ▸ the names of its results files and of its samples files."""
_REPLACED = "replaced"
"""Where a recipe puts searches and evaluations that newer ones replace."""
_SEEDS = ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The files of one finished evaluation.

    Attributes:
        harness: lmms-eval or lm-eval.
        stamp: the time in the files' names; sorts by age.
        results: the results file.
        samples: task ▸ its samples file.
    """

    harness: str
    stamp: str
    results: Path
    samples: dict[str, Path]


@dataclass(frozen=True)
class RunResults:
    """A results file.

    Attributes:
        evaluation: the evaluation that it belongs to.
        content: the file, as parsed JSON.
        sha256: of the file.
    """

    evaluation: Evaluation
    content: dict[str, Any]
    sha256: str

    @property
    def seeds(self) -> dict[str, object]:
        """The harness's four seeds."""
        config = self.content.get("config", {})
        return {key: config.get(key) for key in _SEEDS}

    @property
    def steering(self) -> dict[str, Any]:
        """The steering record that our models write; empty for other models."""
        # lm-eval keeps a model's own record in its config
        return self.content.get("steering") or (self.content.get("config") or {}).get("steering") or {}

    @property
    def model(self) -> str:
        """The model's name without owner or folder; "" if it is not recorded."""
        # lmms-eval's own name of a steered model contains its steering
        name = str(self.steering.get("model") or self.content.get("model_name") or "")
        return name.rstrip("/").rpartition("/")[2]

    @property
    def seconds(self) -> float:
        """The duration of the evaluation, all tasks together; NaN if it is not recorded."""
        try:
            return float(self.content.get("total_evaluation_time_seconds") or "nan")
        except (ValueError, TypeError):
            return float("nan")


@dataclass(frozen=True)
class FoundRuns:
    """The runs below the folders that were typed.

    Attributes:
        evaluations: name ▸ evaluations, oldest first.
        empty: folders without an evaluation, a line each.
        no_runs: what is no run and was not meant as one, a line each: studies of a search, and files.
    """

    evaluations: dict[str, list[Evaluation]]
    empty: tuple[str, ...]
    no_runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _FoundRun:
    """A folder with evaluations, and the names that it may get."""

    argument: str
    name: str
    long_name: str
    folder: Path
    evaluations: list[Evaluation]


def find_runs(runs: Iterable[str]) -> FoundRuns:
    """Find the evaluations below folders, and name each folder that holds some.

    Args:
        runs: folders as a user types them, or NAME=FOLDER to choose a name. Each folder below them that holds results
            files directly is a run. A run that is the only one below a folder is named after that folder, another by
            its shortest unambiguous path; where two runs would get the same name, both are preceded by the name of
            the folder that was typed.

    Raises:
        UserError: if nothing is a run, or for samples without results, or two runs with the same name.
    """
    named: dict[str, _FoundRun] = {}
    found: list[_FoundRun] = []
    empty: list[str] = []
    no_runs: list[str] = []
    for argument in runs:
        below = list(_runs_below(argument))
        found += below
        if not below:
            path = _split_argument(argument)[1]
            if what_else := _what_else(path):
                no_runs.append(what_else)
            else:
                empty.append(f"no finished evaluation in {path!r}: there is no *_results.json")
    count = Counter(run.name for run in found)
    for run in found:
        name = run.long_name if count[run.name] > 1 else run.name
        if name in named:
            other = named[name]
            raise UserError(
                f"two runs have the name {name!r}: {other.folder} (from {other.argument!r}) and {run.folder} (from"
                f" {run.argument!r}); give the second another name, NAME={run.folder}, or leave its folder out"
            )
        named[name] = run
    if not named:
        expected = "expected folders that lmms-eval --output_path --log_samples wrote"
        raise UserError("; ".join([*empty, *no_runs]) or f"no runs: {expected}")
    return FoundRuns({name: run.evaluations for name, run in named.items()}, tuple(empty), tuple(no_runs))


def files_below(root: Path, pattern: str) -> list[Path]:
    """The files of a name below a folder, without output that a recipe has replaced; in order.

    Args:
        root: the folder. Where it is itself a recipe's folder of replaced output, or in one, all count.
        pattern: as for `Path.rglob`.
    """
    return sorted(path for path in root.rglob(pattern) if not any(_replaced_folders(root, path)))


def newest_evaluation(folder: Path) -> Evaluation:
    """Return the newest evaluation below a folder.

    Raises:
        UserError: if there is none.
    """
    evaluations = [evaluation for run in find_runs([str(folder)]).evaluations.values() for evaluation in run]
    return max(evaluations, key=lambda evaluation: evaluation.stamp)


def evaluations_in(folder: Path) -> list[Evaluation]:
    """Return the evaluations whose files lie directly in a folder, oldest first.

    Raises:
        UserError: for a samples file without a results file.
    """
    evaluations = []
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    for harness, (results_name, samples_name) in _LAYOUTS.items():
        samples = [match for name in names if (match := samples_name.fullmatch(name))]
        results = {match["stamp"]: folder / name for name in names if (match := results_name.fullmatch(name))}
        for name in (*(path.name for path in results.values()), *(match.string for match in samples)):
            if not name.isprintable():
                raise UserError(f"{str(folder)!r} has a file with control characters in its name: {name!r}")
        orphans = [match.string for match in samples if match["stamp"] not in results]
        if orphans:
            raise UserError(f"{str(folder / orphans[0])!r} has no results file next to it: was the run cut off?")
        for stamp, path in results.items():
            tasks = {match["task"]: folder / match.string for match in samples if match["stamp"] == stamp}
            evaluations.append(Evaluation(harness, stamp, path, tasks))
    return sorted(evaluations, key=lambda evaluation: evaluation.stamp)


def read_results(evaluation: Evaluation) -> RunResults:
    """Read a results file.

    Raises:
        UserError: if it is cut off or is no results file.
    """
    try:
        raw = read_limited(evaluation.results, MAX_BYTES)
        content = checked_results(parse_json(raw))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(evaluation.results)!r} is cut off or no results file: {reason(error)}") from error
    return RunResults(evaluation, content, hashlib.sha256(raw).hexdigest())


def _runs_below(argument: str) -> Iterator[_FoundRun]:
    chosen_name, path = _split_argument(argument)
    root = Path(path)
    if not root.exists():
        raise UserError(f"no such folder: {path!r}")
    if not root.is_dir():
        return
    found = dict.fromkeys(file.parent for file in files_below(root, "*.json*"))
    folders = {folder: evaluations_in(folder) for folder in sorted(found)}
    folders = {folder: evaluations for folder, evaluations in folders.items() if evaluations}
    if len(folders) > 1 and chosen_name:
        raise UserError(f"{path!r} holds {len(folders)} runs, which cannot all have the name {chosen_name!r}")
    for folder, evaluations in folders.items():
        name = chosen_name or _shortest_name(root, folder, list(folders))
        long_name = name if len(folders) == 1 else f"{root.resolve().name}/{name}"
        yield _FoundRun(argument, printable(name), printable(long_name), folder, evaluations)


def _replaced_folders(root: Path, path: Path) -> Iterator[Path]:
    """The folders between a folder and a path below it where a recipe has put replaced output."""
    above = path.parents[: len(path.relative_to(root).parts) - 1]
    return (folder for folder in above if folder.name == _REPLACED and (folder.parent / ".run").is_dir())


def _split_argument(argument: str) -> tuple[str, str]:
    """Return the name that was chosen, "" if none was, and the folder."""
    chosen_name, equals, path = argument.partition("=")
    return ("", argument) if not equals or Path(argument).exists() else (chosen_name, path)


def _what_else(path: str) -> str:
    """Say what a path is that holds no runs, of the things that lie among runs; "" for other folders."""
    if Path(path).is_file():
        return f"{path!r} is a file, not a run's folder"
    if any(next(Path(path).rglob(name), None) for name in ("plan.json", "cells.parquet")):
        return f"{path!r} is a study of lmms-steer search, not a run: --study {path} shows its maps"
    return ""


def _shortest_name(root: Path, folder: Path, folders: list[Path]) -> str:
    """The root's name for an only folder, else the shortest unambiguous path below the root."""
    if len(folders) == 1:
        return root.resolve().name
    path = folder.relative_to(root)
    for part in [*reversed(path.parents), path][1:]:
        if sum((root / part) in (other, *other.parents) for other in folders) == 1:
            return str(part)
    return str(path)
