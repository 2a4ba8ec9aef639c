"""`lmms-steer demo`: the steps in their order, then the table and the page."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lmms_steer.demo.plan import CONCEPTS, SPLITS, SYSTEMS, Folders, task_names


def run(out: Path) -> None:
    """Run what is not done yet in `out`, print the table, and write `results.json` and `index.html`."""
    started = time.monotonic()
    folders = Folders(out)
    _say("loading torch and lmms-eval …")
    _quiet()
    from lmms_eval.tasks import TaskManager

    from lmms_steer.demo import steps
    from lmms_steer.demo.colour_curve import colour_curve
    from lmms_steer.demo.page import write_page
    from lmms_steer.demo.table import print_table
    from lmms_steer.task_names import tasks_dir

    tasks = TaskManager(include_path=tasks_dir(), include_defaults=False)
    todo: list[tuple[str, Callable[[], str]]] = [("extract vectors", lambda: steps.extract(folders))]
    todo += [("colour curve", lambda: colour_curve(folders))]
    for task in CONCEPTS:
        todo.append((f"choose on tiny_{task}_select", lambda task=task: steps.choose(folders, task)))  # type: ignore[misc]
    for task in CONCEPTS:
        for system in SYSTEMS:
            todo.append(
                (
                    f"evaluate {task}, {system}",
                    lambda task=task, system=system: steps.evaluate(folders, task, system, tasks),  # type: ignore[misc]
                )
            )
    for number, (title, step) in enumerate(todo, start=1):
        begun = time.monotonic()
        outcome = step()
        _say(f"[{number:2}/{len(todo)}] {title}: {outcome} ({time.monotonic() - begun:.1f} s)")
    rows = collect(folders)
    folders.results.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print_table(rows)
    write_page(folders, rows)
    _say(f"\npage: {folders.page}   numbers: {folders.results}   minutes: {(time.monotonic() - started) / 60:.1f}")


def collect(folders: Folders) -> list[dict[str, Any]]:
    """One row a task, split and system: accuracy, paired gain, interval, p, and what was done."""
    from lmms_steer.comparison.logs import read_run
    from lmms_steer.comparison.paired import compare
    from lmms_steer.demo.steps import model_args

    rows = []
    for task in CONCEPTS:
        baseline = read_run(folders.run(task, "baseline"))
        for system in SYSTEMS:
            run = read_run(folders.run(task, system))
            names = zip(SPLITS, task_names(task, "baseline"), task_names(task, system), strict=True)
            for split, base_name, name in names:
                result = compare(baseline.scores(base_name), run.scores(name))
                unparsed = run.results["results"][name].get("unparsed,none")
                done = {"task": task, "split": split, "system": system, "args": model_args(folders, task, system)}
                spec = run.results.get("steering", {}).get("sha256")
                rows.append({**done, **asdict(result), "unparsed": unparsed, "spec_sha256": spec})
    return rows


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _quiet() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything that the demo needs is on this disk
    from datasets import disable_progress_bars
    from loguru import logger
    from transformers.utils import logging as transformers_logging

    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    logger.remove()
    logger.add(sys.stderr, level="ERROR")
