"""The parts of the recipe `tiny`, by the names that the page has for them, and where they are.

What the recipe's cells found, one row a task, split and system.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lmms_steer.comparison.leaderboard import shared_images
from lmms_steer.comparison.runs import newest_evaluation, read_results
from lmms_steer.comparison.samples import read_samples
from lmms_steer.errors import UserError
from lmms_steer.recipes.layout import Layout
from lmms_steer.recipes.loading import load_recipe, shipped_recipes
from lmms_steer.statistics.paired import compare_by_document

MODEL = "tiny-paligemma2"
BACKBONE = "tiny-gemma2"
METHOD = "mean_shift"
CONCEPTS = {"spatial": "spatial", "counting": "counting", "colour": "attribute"}
"""task ▸ the concept whose pooled vector is meant to help with it."""
SEEDS = range(5)
RANDOM = tuple(f"{METHOD}-random-{seed}" for seed in SEEDS)
"""The random vectors that went through the same choice of layer, alpha and tokens."""
SYSTEMS = ("baseline", "prompted", "calibrated", METHOD, *RANDOM)
SPLITS = {"test": "", "ood": "_ood"}


class Folders:
    """
    Args:
        root: the recipe's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        _, recipe = load_recipe(str(shipped_recipes()["tiny"]))
        self._model, self._at = recipe.models[MODEL], Layout(recipe, root)

    @property
    def tasks(self) -> list[str]:
        """Those that were evaluated: all, unless the recipe was changed."""
        return [task for task in CONCEPTS if self.run(task, "baseline").is_dir()]

    def vector(self, concept: str) -> Path:
        return self._at.vector(self._model, concept, METHOD)

    def search(self, task: str) -> Path:
        return self._at.search(MODEL, task, CONCEPTS[task], METHOD)

    def run(self, task: str, system: str) -> Path:
        return self._at.run(MODEL, task, system)

    @property
    def curve(self) -> Path:
        return self.root / "colour_curve.json"

    @property
    def results(self) -> Path:
        return self.root / "results.json"

    @property
    def page(self) -> Path:
        return self.root / "index.html"


def task_names(task: str, system: str) -> list[str]:
    """The lmms-eval tasks of a system: test and out of distribution."""
    ending = "_prompted" if system == "prompted" else ""
    return [f"tiny_{task}{split}{ending}" for split in SPLITS.values()]


def collect_rows(folders: Folders) -> list[dict[str, Any]]:
    """Accuracy, paired gain, interval, p, and what was done.

    Raises:
        UserError: where an evaluation is missing.
    """
    if not folders.tasks:
        raise UserError(f"no runs of the recipe tiny in {str(folders.root)!r}: lmms-steer demo makes them")
    rows = []
    for task in folders.tasks:
        baseline = read_results(newest_evaluation(folders.run(task, "baseline")))
        for system in (name for name in SYSTEMS if folders.run(task, name).is_dir()):
            run = read_results(newest_evaluation(folders.run(task, system)))
            names = zip(SPLITS, task_names(task, "baseline"), task_names(task, system), strict=True)
            for split, base_name, name in names:
                before, after = read_samples(baseline, base_name), read_samples(run, name)
                images = shared_images([{"before": before, "after": after}])
                result = compare_by_document(before.by_document, after.by_document, images)
                unparsed = run.said["results"][name].get("unparsed,none")
                shown = system.removeprefix("mean_shift-") if system in RANDOM else system
                done = {"task": task, "split": split, "system": shown, "args": run.said["config"]["model_args"]}
                spec = run.steering.get("sha256")
                rows.append({**done, **asdict(result), "unparsed": unparsed, "spec_sha256": spec})
    return rows


def search_summary(folders: Folders, task: str) -> dict[str, Any]:
    """A search's baseline and best cell, and all cells of the concept's vector."""
    found = json.loads((folders.search(task) / "result.json").read_text(encoding="utf-8"))
    ((name, told),) = found["vectors"].items()
    cells = [c for c in pq.read_table(folders.search(task) / "cells.parquet").to_pylist() if c["vector"] == name]
    return {"n": found["n"], "baseline": found["baseline"], "best": told["best"], "cells": cells}
