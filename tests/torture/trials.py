"""Plan the faults of a command, and let it suffer them in several processes at the same time."""

import json
import os
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import datasets

from tests.torture import mounts
from tests.torture.contract import Outcome, suffer
from tests.torture.faults import MOUNTED, SHARES, Trial
from tests.torture.questions import write_tasks
from tests.torture.subjects import OUT, RECIPE, SUBJECTS, Reference


def prepare(root: Path) -> None:
    """Write what all trials need, tasks and a recipe, and give them caches of their own."""
    root.mkdir(parents=True, exist_ok=True)
    if not (root / "tasks").exists():
        write_tasks(root / "tasks")
    (root / "recipe.yaml").write_text(RECIPE)
    # what this process has imported reads it here, and fresh commands in their environment
    datasets.config.HF_DATASETS_CACHE = root / "datasets"
    os.environ.update(
        HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1",
        LMMS_STEER_CACHE=str(root / "cache"), HF_DATASETS_CACHE=str(root / "datasets"),
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    )  # fmt: skip


def uninterrupted(root: Path, name: str) -> Reference:
    """Run a command without a fault."""
    trial = Trial(SUBJECTS[name], _emptied(root / f"{name}-whole"), random.Random(0), 0.0, 0, 0)
    if trial.launch().wait() != 0:
        raise SystemExit(f"{name} fails without a fault:\n{trial.launched[-1].text()}")
    sizes = [path.stat().st_size for path in trial.out.rglob("*") if path.is_file()]
    pages = sum(-(-size // 4096) for size in sizes)
    return Reference(trial.launched[-1].work, 4096 * pages, len(sizes), SUBJECTS[name].results(trial.out))


def planned_faults(kinds: Sequence[str], faults: int, seed: int, name: str) -> list[tuple[str, int]]:
    """Faults and the seeds of their trials, in an order in which every kind comes early."""
    places = [((i + 0.5) / SHARES[kind], kind) for kind in kinds for i in range(SHARES[kind])]
    ordered = [kind for _, kind in sorted(places)]
    drawn = random.Random(f"{seed} {name}")
    return [(ordered[i % len(ordered)], drawn.randrange(10**6)) for i in range(faults)]


def run_trials(
    root: Path, name: str, planned: Sequence[tuple[str, int]], reference: Reference, jobs: int, fresh: int
) -> Iterator[tuple[str, Outcome]]:
    """Let a command suffer faults.

    Args:
        root: the folder of all trials.
        name: the command.
        planned: faults and seeds.
        reference: its uninterrupted run.
        jobs: how many trials run at the same time.
        fresh: how many of the first kills start the console script as a user does.

    Yields:
        each fault and how it ended.
    """
    processes = []
    for job in range(jobs):
        report = root / f"{name}-{job}.json"
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                outcomes = []
                for place in range(job, len(planned), jobs):
                    fault, number = planned[place]
                    outcome = _trial(root, name, place, fault, number, reference, fault == "kill" and place < fresh)
                    for line in outcome.failures:
                        print(f"FAILED {name}, {fault} {number}: {line}", flush=True)
                    outcomes.append((fault, asdict(outcome)))
                report.write_text(json.dumps(outcomes))
                status = 0
            finally:
                os._exit(status)
        processes.append((pid, report))
    for pid, report in processes:
        if os.waitpid(pid, 0)[1]:
            raise SystemExit(f"a process of the trials of {name} ended with an error")
        yield from ((fault, Outcome(**outcome)) for fault, outcome in json.loads(report.read_text()))


def _trial(root: Path, name: str, place: int, fault: str, number: int, reference: Reference, fresh: bool) -> Outcome:
    folder = _emptied(root / f"{name}-{place:02d}-{fault.replace(' ', '_')}")
    measures = reference.work, reference.bytes, reference.files
    trial = Trial(SUBJECTS[name], folder, random.Random(number), *measures, fresh=fresh)
    if fault not in MOUNTED:
        return suffer(trial, fault, reference)
    mounts.mount(trial.out, mounts.ROOMY)
    try:
        outcome = suffer(trial, fault, reference)
        if outcome.failures:
            shutil.copytree(trial.out, folder / "kept")
        return outcome
    finally:
        mounts.unmount(trial.out)


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / OUT).mkdir(parents=True)
    return folder
