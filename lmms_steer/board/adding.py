"""`lmms-steer leaderboard add`: turn runs of a harness into entries."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lmms_steer._util.io import is_regular_file
from lmms_steer.board.entry import (
    ENTRIES,
    ENTRY,
    MAX_NAME,
    RESULTS,
    SAMPLES,
    SPEC,
    STUDY,
    Entry,
    EntryVector,
    entry_folders,
    limit_of,
)
from lmms_steer.board.rules import read_rules
from lmms_steer.board.samples_file import write_samples
from lmms_steer.comparison.identity import split_by_system
from lmms_steer.comparison.provenance import chosen_on_tasks
from lmms_steer.comparison.runs import files_below, find_runs
from lmms_steer.comparison.samples import Samples, read_samples
from lmms_steer.comparison.studies import Searched, read_searched
from lmms_steer.comparison.systems import BLANK_SUFFIX, newest_results, split_prompted
from lmms_steer.concepts import loader as concepts
from lmms_steer.errors import UserError, reason, shorten
from lmms_steer.models import BLANK
from lmms_steer.search.plan import PLAN_FILE
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.row_vectors import is_row_vector
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import backbone_of
from lmms_steer.vectors.controls import make_control
from lmms_steer.vectors.steering_vectors import SteeringVectors

_STUDY_FILES = ("plan.json", "cells.parquet", "result.json")
_PRIVATE = ("hf_hub_log_args", "wandb_args", "swanlab_args", "launcher_args", "output_path")
"""Options that may hold keys of services, or where things are on somebody's machine."""


@dataclass(frozen=True)
class Addition:
    """What is said about all runs of one call.

    Attributes:
        by: who adds them; default: git's `user.name`.
        about: what else a reader should know.
        baseline: the system to compare with; default: the only unsteered one beside each entry.
        address: the Hub repository of the vectors, which are then not copied.
        studies: folders of the searches that chose the specs.
        metric: the score; default: each task's own.
        replace: whether entries may be replaced.
    """

    by: str = ""
    about: str = ""
    baseline: str = ""
    address: str = ""
    studies: tuple[Path, ...] = ()
    metric: str | None = None
    replace: bool = False


def add_runs(board: Path, runs: Sequence[str], addition: Addition) -> Iterator[str]:
    """Add an entry for each task of each run.

    Args:
        board: its folder.
        runs: folders with a harness's output, or NAME=FOLDER; the name is that of the system.
        addition: what is said about them.

    Yields:
        A line for each entry, and for what it lacks.

    Raises:
        UserError: for runs that cannot be read, or an entry that is there already. Then no run is added.
    """
    read_rules(board)
    present = {place.casefold(): place for place in _places(board)}
    studies = [study for folder in addition.studies for study in _studies_below(folder)]
    plans = {study: read_searched(study / PLAN_FILE) for study in studies}
    planned: list[tuple[Entry, Samples, Path | None]] = []
    places: dict[str, str] = {}
    # each by itself, so that runs of different tasks may have the same name
    for run in runs:
        for name, evaluations in split_by_system(find_runs([run]).evaluations).items():
            for task, results in newest_results(evaluations).items():
                if task not in results.evaluation.samples:
                    raise UserError(f"run {name!r} has no samples of {task}: evaluate with --log_samples")
                samples = read_samples(results, task, addition.metric)
                entry = _entry_of(board, name, samples, addition)
                if entry.place in places:
                    raise UserError(f"{run} and {places[entry.place]} are both {entry.place}: NAME=FOLDER names one")
                places[entry.place] = run
                same = present.setdefault(entry.place.casefold(), entry.place)
                if same != entry.place:
                    raise UserError(f"{entry.place} is {same} but for capital letters: NAME=FOLDER gives another name")
                if (board / ENTRIES / entry.place).exists() and not addition.replace:
                    raise _is_there(entry)
                planned.append((entry, samples, _study_of(samples, plans)))
    for entry, samples, study in planned:
        yield from _add_one(board, entry, samples, study, addition)
    if plans and all(study is None for _, _, study in planned):
        yield f"not used: the studies in {', '.join(map(str, addition.studies))} chose none of these runs"


def _places(board: Path) -> Iterator[str]:
    """The folders of the entries that are there, below `entries/`."""
    return (folder.relative_to(board / ENTRIES).as_posix() for folder in entry_folders(board))


def _studies_below(folder: Path) -> list[Path]:
    if not (found := [path.parent for path in files_below(folder, PLAN_FILE)]):
        raise UserError(f"{str(folder)!r} holds no study: there is no plan.json")
    return found


def _study_of(samples: Samples, plans: dict[Path, Searched]) -> Path | None:
    """The study that searched a run's vectors on the task that its settings were chosen on; the last one of several."""
    record = _provenance(samples)
    # a choice that was kept for a vector does not say the vector's hash
    vectors = samples.results.steering.get("vectors") or ()
    hashes = {record["vector_sha256"]} if record.get("vector_sha256") else {one["sha256"] for one in vectors}
    tasks = chosen_on_tasks(record) if hashes else []
    found = [folder for folder, plan in plans.items() if plan.task in tasks and hashes <= plan.vectors]
    return found[-1] if found else None


def _entry_of(board: Path, name: str, samples: Samples, addition: Addition) -> Entry:
    record = samples.results.steering
    task, suffix = split_prompted(samples.task)
    prompt = suffix.removeprefix("_")
    system = name if prompt in ("", name) else f"{name}, {prompt}"
    if record.get("image") == BLANK:
        system += BLANK_SUFFIX
    return Entry(
        model=_named("model", samples.results.model),
        task=_named("task", task),
        system=_named("system", system),
        harness=samples.results.evaluation.harness,
        harness_task=samples.task,
        metric=samples.metric,
        images_source=samples.images_source,
        baseline=addition.baseline,
        by=addition.by or _git_user(board),
        added=date.today().isoformat(),
        about=addition.about,
        versions={key: str(value) for key, value in (record.get("versions") or {}).items()},
    )


def _add_one(board: Path, entry: Entry, samples: Samples, study: Path | None, addition: Addition) -> Iterator[str]:
    target = board / ENTRIES / entry.place
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=board, prefix=".adding-") as temporary:
        folder = Path(temporary) / "entry"
        folder.mkdir()
        missing = _fill(folder, entry, samples, study, addition)
        try:
            if addition.replace and target.exists():
                target.rename(Path(temporary) / "replaced")
            folder.rename(target)
        except OSError as error:
            # somebody else has added it meanwhile
            raise (_is_there(entry) if target.exists() else UserError(f"{str(target)!r}: {reason(error)}")) from error
    yield f"added {entry.place}: {samples.metric} {samples.scores.mean():.3f} on {len(samples.keys)} questions"
    yield from (f"  {line}" for line in missing)


def _is_there(entry: Entry) -> UserError:
    return UserError(f"the entry {entry.place} is there already: --replace replaces it, NAME=FOLDER gives another name")


def _fill(folder: Path, entry: Entry, samples: Samples, study: Path | None, addition: Addition) -> list[str]:
    """Write the files of an entry; returns what it lacks, a line each."""
    missing: list[str] = []
    (folder / RESULTS).write_text(
        json.dumps(_public(samples.results.content), indent=1, ensure_ascii=False) + "\n", "utf-8"
    )
    write_samples(samples, folder / SAMPLES)
    record, vectors = samples.results.steering, tuple[EntryVector, ...]()
    if record.get("spec"):
        spec = SteeringSpec.parse(record["spec"])
        spec = dataclasses.replace(spec, provenance=record.get("provenance") or {})
        (folder / SPEC).write_text(spec.to_yaml(), "utf-8")
        vectors, missing = _vectors(folder, spec, samples, addition.address)
        if study is None and _provenance(samples).get("study"):
            missing.append("its study is not there: --study FOLDER adds what the search tried")
    for name in _STUDY_FILES if study is not None else ():
        if (study / name).is_file():  # type: ignore[operator]
            (folder / STUDY).mkdir(exist_ok=True)
            shutil.copyfile(study / name, folder / STUDY / name)  # type: ignore[operator]
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    for name, path in files.items():
        if path.stat().st_size > (limit_of(name) or 0):
            raise UserError(f"{entry.place}: {name} has {path.stat().st_size >> 20} MiB, more than an entry may have")
    hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    (folder / ENTRY).write_bytes(dataclasses.replace(entry, vectors=vectors, files=hashes).to_json())
    return missing


def _vectors(
    folder: Path, spec: SteeringSpec, samples: Samples, address: str
) -> tuple[tuple[EntryVector, ...], list[str]]:
    """Copy the vectors that were added to the model, controls too, or note their address."""
    vectors, missing = [], []
    record = samples.results.steering
    backbone = backbone_of(str(record.get("model") or ""))
    for number, (intervention, recorded) in enumerate(zip(spec.interventions, record["vectors"], strict=False)):
        name, sha256 = recorded["name"], recorded["sha256"]
        # computed anew for each question
        if is_row_vector(intervention.vector):
            vectors.append(EntryVector(name, sha256))
            continue
        if address:
            vectors.append(EntryVector(name, sha256, address=f"{address}/{name}"))
            continue
        found, problem = _found(_beside_run(intervention, samples.path), sha256, backbone)
        if found is None:
            missing.append(f"its vector {name} {problem}")
            vectors.append(EntryVector(name, sha256))
            continue
        file = f"vectors/{number}.safetensors"
        (folder / "vectors").mkdir(exist_ok=True)
        (folder / file).write_bytes(found.without_path().to_bytes())
        vectors.append(EntryVector(name, sha256, file))
    return tuple(vectors), missing


def _beside_run(intervention: Intervention, run: Path) -> Iterator[Intervention]:
    """The intervention, and with a relative path the same with the files of that path in the folders above the run.

    The run was made in one of them, and is added in another: that of the board.
    """
    yield intervention
    path = Path(intervention.vector)
    if path.suffix and not path.is_absolute():
        above = (parent / path for parent in run.resolve().parents)
        yield from (dataclasses.replace(intervention, vector=str(one)) for one in above if is_regular_file(one))


def _found(
    interventions: Iterator[Intervention], sha256: str, backbone: str | None
) -> tuple[SteeringVectors | None, str]:
    """The first vector of this hash; where there is none, what is wrong with the first one."""
    problem = ""
    for intervention in interventions:
        try:
            vector = _vector(intervention, backbone)
        except UserError as error:
            problem = problem or f"is not there ({shorten(error)}): --hub OWNER/REPO says where it is"
            continue
        if vector.sha256 == sha256:
            return vector, ""
        problem = problem or "has changed since the run"
    return None, problem


def _vector(intervention: Intervention, backbone: str | None) -> SteeringVectors:
    """The vector that an intervention adds; for a control the control itself."""
    vector = store.load_vectors(intervention.vector, backbone)
    if intervention.control is None:
        return vector
    return make_control(vector, intervention.control, lambda name: store.load_vectors(name, None), concepts.names())


def _public(content: dict[str, Any]) -> dict[str, Any]:
    """The results file without options that are nobody else's business."""
    config = dict(content.get("config") or {})
    if isinstance(config.get("resolved_cli_args"), dict):
        config["resolved_cli_args"] = {
            key: value for key, value in config["resolved_cli_args"].items() if key not in _PRIVATE
        }
    return {**content, "config": {key: value for key, value in config.items() if key not in _PRIVATE}}


def _provenance(samples: Samples) -> dict[str, Any]:
    return samples.results.steering.get("provenance") or {}


def _named(kind: str, name: str) -> str:
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise UserError(
            f"the {kind}'s name {shorten(repr(name))} needs 1 to {MAX_NAME} printable characters: NAME=FOLDER"
        )
    return name


def _git_user(board: Path) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(board), "config", "user.name"], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()[:MAX_NAME]
