"""What the recipe's cells found, one row a task, split and system."""

import json
from dataclasses import asdict
from typing import Any

import pyarrow.parquet as pq

from lmms_steer.comparison.board import images_of
from lmms_steer.comparison.files import newest
from lmms_steer.comparison.results import read_results
from lmms_steer.comparison.samples import read_samples
from lmms_steer.demo.plan import RANDOM, SPLITS, SYSTEMS, Folders, task_names
from lmms_steer.errors import UserError
from lmms_steer.statistics.paired import compare


def collect(folders: Folders) -> list[dict[str, Any]]:
    """Accuracy, paired gain, interval, p, and what was done.

    Raises:
        UserError: where an evaluation is missing.
    """
    if not folders.tasks:
        raise UserError(f"no runs of the recipe tiny in {str(folders.root)!r}: lmms-steer demo makes them")
    rows = []
    for task in folders.tasks:
        baseline = read_results(newest(folders.run(task, "baseline")))
        for system in (name for name in SYSTEMS if folders.run(task, name).is_dir()):
            run = read_results(newest(folders.run(task, system)))
            names = zip(SPLITS, task_names(task, "baseline"), task_names(task, system), strict=True)
            for split, base_name, name in names:
                before, after = read_samples(baseline, base_name), read_samples(run, name)
                images = images_of([{"before": before, "after": after}])
                result = compare(before.by_document, after.by_document, images)
                unparsed = run.said["results"][name].get("unparsed,none")
                shown = system.removeprefix("mean_shift-") if system in RANDOM else system
                done = {"task": task, "split": split, "system": shown, "args": run.said["config"]["model_args"]}
                spec = run.steering.get("sha256")
                rows.append({**done, **asdict(result), "unparsed": unparsed, "spec_sha256": spec})
    return rows


def searched(folders: Folders, task: str) -> dict[str, Any]:
    """A search's baseline and best cell, and all cells of the concept's vector."""
    found = json.loads((folders.search(task) / "result.json").read_text(encoding="utf-8"))
    ((name, told),) = found["vectors"].items()
    cells = [c for c in pq.read_table(folders.search(task) / "cells.parquet").to_pylist() if c["vector"] == name]
    return {"n": found["n"], "baseline": found["baseline"], "best": told["best"], "cells": cells}
