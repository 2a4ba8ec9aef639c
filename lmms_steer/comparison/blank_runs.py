"""Runs with blank images beside the runs of the same systems that saw them: what a gain is without sight.

A run whose images were grey is never compared with one that saw them. It is compared with the baseline's own run with
grey images, and what comes out stands in the row of the system that saw them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from lmms_steer.comparison.samples import Samples
from lmms_steer.comparison.settings import setting_differences
from lmms_steer.comparison.systems import BLANK_SUFFIX, System
from lmms_steer.models import BLANK

_NOT_THE_SYSTEM = ("image", "notes", "versions", "divergence")
"""Keys of a steering record that do not make the system."""


def is_blank(run: Samples) -> bool:
    """Whether the model was shown a grey image in place of each."""
    return run.results.steering.get("image") == BLANK


def with_blank_runs_apart(systems: Mapping[str, System]) -> tuple[dict[str, System], dict[str, System]]:
    """Part the runs with blank images that belong to another run from the rest.

    Args:
        systems: name ▸ system, the baseline first.

    Returns:
        name ▸ system without those runs, and the name of the system that saw the images ▸ the same system with its runs
        on blank images, of those tasks that have one. The baseline is first in both, with no tasks where it has no
        such run. Both are as they were if the baseline itself saw no images.
    """
    baseline, *others = systems.values()
    if any(map(is_blank, baseline.tasks.values())):
        return dict(systems), {}
    found: dict[str, dict[str, Samples]] = {}
    taken: set[tuple[str, str]] = set()
    for system in (baseline, *others):
        for task, run in system.tasks.items():
            free = [other for other in systems.values() if (other.name, task) not in taken]
            twin = None if is_blank(run) else _twin(system, task, run, free)
            if twin is not None:
                taken.add((twin, task))
                found.setdefault(system.name, {})[task] = systems[twin].tasks[task]
    if not found:
        return dict(systems), {}
    rest = {
        name: replace(one, tasks={task: run for task, run in one.tasks.items() if (name, task) not in taken})
        for name, one in systems.items()
    }
    order = [baseline.name, *(name for name in systems if name in found and name != baseline.name)]
    blank = {name: replace(systems[name], tasks=found.get(name, {})) for name in order}
    return {name: one for name, one in rest.items() if one.tasks or name == baseline.name}, blank


def _twin(system: System, task: str, run: Samples, systems: Iterable[System]) -> str | None:
    """The name of the system with blank images that is the same otherwise, on the same questions.

    Two systems may be the same, such as a search's two choices. Of their runs with blank images the one of the system's
    own name counts first.
    """
    for other in sorted(systems, key=lambda other: other.name != f"{system.name}{BLANK_SUFFIX}"):
        blank = other.tasks.get(task)
        if blank is None or not is_blank(blank) or blank.task != run.task:
            continue
        if _identity(blank) == _identity(run) and np.array_equal(blank.keys, run.keys):
            differences = setting_differences(blank, run)
            if all(one.key == "image" for one in differences if one.decisive):
                return other.name
    return None


def _identity(run: Samples) -> str:
    record = run.results.steering
    return json.dumps({key: value for key, value in record.items() if key not in _NOT_THE_SYSTEM}, sort_keys=True)
