"""Time and memory of checking and building a leaderboard of made-up entries, and whether each planted fault is found.

python benchmarks/leaderboard.py --entries 2000 --answers 2600
"""

import argparse
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.helpers.board_faults import REFUSED, UNREADABLE, change_json, edit_an_answer, sign
from tests.helpers.boards import TASK, write_system

SYSTEMS = 48
"""Steered entries beside a baseline and a random control."""
SCORED = "cvbench_relation_test"
"""The task of the entries: one whose answers are read by the scorer of multiple-choice questions."""
WRONG = ("below", "It is below.", "B", "I think that the circle is below the square", "left")
DIFFERENT = 0.3
"""Share of answers that no other question has, as those of a model that answers in sentences."""


def make_group(template: Path, folder: Path, model: str, steered: int, rng: random.Random) -> None:
    """Write a baseline, a control and steered entries with answers of their own, as entries of a made-up model."""
    base = np.array([rng.random() < 0.6 for _ in range(len(pq.read_table(template / "baseline" / "samples.parquet")))])
    for name in ("baseline", "random", *(f"steered{number:03}" for number in range(steered))):
        kind = "steered" if name.startswith("steered") else name
        entry = folder / name
        shutil.copytree(template / kind, entry)
        for file in ("entry.json", "results.json"):
            (entry / file).write_text((entry / file).read_text().replace(TASK, SCORED))
        changed = np.array([rng.random() < 0.1 for _ in base]) if kind != "baseline" else np.zeros(len(base), bool)
        right = np.where(changed, ~base, base)
        table = pq.read_table(entry / "samples.parquet").to_pydict()
        answers = ("above" if one else rng.choice(WRONG) for one in right)
        table["answer"] = [f"{one}, seen from {rng.random()}" if rng.random() < DIFFERENT else one for one in answers]
        table["score"] = right.astype(float).tolist()
        pq.write_table(pa.table(table), entry / "samples.parquet")
        score, count = float(right.mean()), len(base)

        def set_score(results: Any, score: float = score, count: int = count) -> None:
            results["results"][SCORED]["acc,none"] = score
            results["n-samples"][SCORED] = {"original": count, "effective": count}
            results["steering"]["model"] = model

        change_json(entry / "results.json", set_score)
        change_json(entry / "entry.json", partial(dict.update, model=model, system=name))
        sign(entry)


def make_entries(board: Path, entries: int, answers: int) -> None:
    from lmms_steer.board.adding import Addition, add_runs
    from lmms_steer.board.templates import init_board

    list(init_board(board, "Made up", ""))
    with tempfile.TemporaryDirectory() as name:
        small = Path(name)
        list(init_board(small / "board", "Template", ""))
        write_system(small / "runs" / "baseline", [1.0] * answers, steered=False)
        write_system(small / "runs" / "steered", [1.0] * answers)
        write_system(small / "runs" / "random", [1.0] * answers, control="random:0")
        list(add_runs(small / "board", [str(small / "runs")], Addition(by="nobody")))
        template, rng = next(small.glob("board/entries/*/*")), random.Random(0)
        left, number = entries, 0
        while left > 2:
            model, steered = f"model{number:03}", min(SYSTEMS, left - 2)
            make_group(template, board / "entries" / model / SCORED, model, steered, rng)
            left, number = left - steered - 2, number + 1


def plant(board: Path) -> dict[str, str]:
    """Plant each fault in a steered entry of its own: place ▸ how the line begins that must name it."""
    folders = sorted(board.glob("entries/*/*/steered*"))
    faults = {**REFUSED, **UNREADABLE}
    planted = {}
    for folder, (fault, expected) in zip(folders[:: max(1, len(folders) // len(faults))], faults.items(), strict=False):
        fault(folder)
        planted[folder.relative_to(board / "entries").as_posix()] = expected.partition(":")[0]
    return planted


def main() -> None:
    from lmms_steer.board.page import build_page
    from lmms_steer.board.reading import read_board

    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=1000)
    parser.add_argument("--answers", type=int, default=500)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["LMMS_STEER_CACHE"] = f"{name}/cache"
        board = Path(name) / "board"
        make_entries(board, options.entries, options.answers)
        planted = plant(board)
        spare = next(
            folder
            for folder in sorted(board.glob("entries/*/*/steered*"))
            if folder.relative_to(board / "entries").as_posix() not in planted
        )
        print(f"{options.entries} entries x {options.answers} answers, {len(planted)} planted faults")
        times = []
        for title in ("check", "check again, nothing changed", "check again, one answer edited"):
            if title.endswith("edited"):
                edit_an_answer(spare)
                planted[spare.relative_to(board / "entries").as_posix()] = "scores"
            start, cpu = time.perf_counter(), cpu_seconds()
            read = read_board(board, options.workers)
            spent = f"{time.perf_counter() - start:.1f} s ({cpu_seconds() - cpu:.1f} s of CPU)"
            times.append(f"{title}: {spent}, {read.checked} checked")
        start = time.perf_counter()
        list(build_page(board, read))
        size = (board / "site" / "index.html").stat().st_size / 1e6
        times.append(f"write the page: {time.perf_counter() - start:.1f} s, {size:.1f} MB")
        found = dict(read.refusals())
    print("\n".join(times))
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024
    print(f"at most {peak:.0f} MB in each of {options.workers + 1} processes")
    missed = {place: line for place, line in planted.items() if not found.get(place, "").startswith(line)}
    wrong = found.keys() - planted.keys()
    print(f"{len(planted) - len(missed)} of {len(planted)} faults found, {len(wrong)} other entries refused")
    if missed or wrong:
        print(json.dumps([missed, {place: found[place] for place in wrong}], indent=1)[:4000])
        sys.exit(1)


def cpu_seconds() -> float:
    parts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(part.ru_utime + part.ru_stime for part in parts)


if __name__ == "__main__":
    main()
