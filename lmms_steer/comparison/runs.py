"""Which files belong to which run: lmms-eval's and lm-eval's output folders, and a name for each system.

A results file: what a harness says of a whole run.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_steer.errors import UserError

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


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One finished call of a harness: its results file, and a samples file a task."""

    harness: str
    stamp: str
    results: Path
    samples: dict[str, Path]


def find_runs(runs: Iterable[str]) -> dict[str, list[Evaluation]]:
    """Name ▸ its evaluations, oldest first.

    Args:
        runs: folders as a user gives them, `NAME=FOLDER` for a name of one's own. Each folder below that holds results
            directly is a system; one that stands alone has the name of the folder that was given. Where runs below
            several folders would be called alike, the given folder's name is put before theirs.

    Raises:
        UserError: for a folder without results, samples without results, or a name that is claimed twice.
    """
    found: dict[str, list[Evaluation]] = {}
    claims: dict[str, tuple[str, Path]] = {}
    given = [(run, *below) for run in runs for below in _below(run)]
    often = Counter(name for _, name, *_ in given)
    for run, short, longer, place, evaluations_in in given:
        name = longer if often[short] > 1 else short
        if name in found:
            other, theirs = claims[name]
            raise UserError(
                f"two runs claim the name {name!r}: one of {other!r} ({theirs}) and one of {run!r} ({place});"
                f" give the second a name of its own, NAME={place}, or leave its folder out"
            )
        found[name], claims[name] = evaluations_in, (run, place)
    if not found:
        raise UserError("no runs were given: expected folders that lmms-eval --output_path --log_samples wrote")
    return found


def newest_evaluation(folder: Path) -> Evaluation:
    """The last evaluation below a folder.

    Raises:
        UserError: where there is none.
    """
    found = [evaluation for below in find_runs([str(folder)]).values() for evaluation in below]
    return max(found, key=lambda evaluation: evaluation.stamp)


def _below(run: str) -> Iterator[tuple[str, str, Path, list[Evaluation]]]:
    """Of each run: its name, the one to take where others have that, where it lies, its evaluations."""
    name, said, folder = run.partition("=")
    if not said or Path(run).exists():
        name, folder = "", run
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"no such folder: {folder!r}")
    by_place = {place: evaluations_in(place) for place in sorted({path.parent for path in root.rglob("*.json*")})}
    by_place = {place: found for place, found in by_place.items() if found}
    if not by_place:
        raise UserError(f"no finished evaluation in {folder!r}: there is no *_results.json")
    if len(by_place) > 1 and name:
        raise UserError(f"{folder!r} holds {len(by_place)} runs, which cannot all be called {name!r}")
    for place, found in by_place.items():
        short = name or _named(root, place, list(by_place))
        yield short, short if len(by_place) == 1 else f"{root.resolve().name}/{short}", place, found


def _named(root: Path, place: Path, places: list[Path]) -> str:
    """The folder that was given, or as much of the way from there as tells it from the others."""
    if len(places) == 1:
        return root.resolve().name
    way = place.relative_to(root)
    for short in [*reversed(way.parents), way][1:]:
        if sum((root / short) in (other, *other.parents) for other in places) == 1:
            return str(short)
    return str(way)


def evaluations_in(place: Path) -> list[Evaluation]:
    """The evaluations whose files lie in this folder, oldest first.

    Raises:
        UserError: for samples without their results.
    """
    found = []
    names = sorted(path.name for path in place.iterdir() if path.is_file())
    for harness, (results, samples) in _LAYOUTS.items():
        parts = [match for name in names if (match := samples.fullmatch(name))]
        stamps = {match["stamp"]: place / name for name in names if (match := results.fullmatch(name))}
        lost = [match.string for match in parts if match["stamp"] not in stamps]
        if lost:
            raise UserError(f"{str(place / lost[0])!r} has no results file beside it: was the run cut off?")
        for stamp, path in stamps.items():
            tasks = {match["task"]: place / match.string for match in parts if match["stamp"] == stamp}
            found.append(Evaluation(harness, stamp, path, tasks))
    return sorted(found, key=lambda evaluation: evaluation.stamp)


@dataclass(frozen=True)
class RunResults:
    """A results file, and the hash of what it says."""

    evaluation: Evaluation
    said: dict[str, Any]
    sha256: str

    @property
    def seeds(self) -> dict[str, Any]:
        """The harness's four seeds."""
        config = self.said.get("config", {})
        return {key: config.get(key) for key in ("random_seed", "numpy_seed", "torch_seed", "fewshot_seed")}

    @property
    def steering(self) -> dict[str, Any]:
        """What our models record; empty for others."""
        # lm-eval keeps what a model says of itself in its config
        return self.said.get("steering") or (self.said.get("config") or {}).get("steering") or {}

    @property
    def model(self) -> str:
        """Its name without owner or folder; empty where nothing says it."""
        # lmms-eval's own name of a steered model holds its steering
        name = str(self.steering.get("model") or self.said.get("model_name") or "")
        return name.rstrip("/").rpartition("/")[2]

    @property
    def seconds(self) -> float:
        """How long the harness ran, all tasks together; NaN where it does not say."""
        return float(self.said.get("total_evaluation_time_seconds") or "nan")


def read_results(evaluation: Evaluation) -> RunResults:
    """Read a results file.

    Raises:
        UserError: for one that is cut off.
    """
    raw = evaluation.results.read_bytes()
    try:
        said = json.loads(raw)
        if not isinstance(said.get("results"), dict):
            raise ValueError("it holds no results")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{str(evaluation.results)!r} is cut off or no results file: {error}") from error
    return RunResults(evaluation, said, hashlib.sha256(raw).hexdigest())
