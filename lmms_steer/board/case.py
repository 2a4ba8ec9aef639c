"""What the checks of an entry read: its files, its answers, and the baseline beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lmms_steer.board.entry import Entry
from lmms_steer.board.samples_file import Answers, StoredSamples, read_stored
from lmms_steer.comparison.pairing import pairing_problem, shared_images
from lmms_steer.comparison.settings import setting_differences
from lmms_steer.comparison.systems import role_of
from lmms_steer.models import BLANK
from lmms_steer.statistics import Floats, Ints
from lmms_steer.statistics.paired import Effects, task_effects

BASELINE, PROMPTED = "baseline", "prompted"


@dataclass(frozen=True)
class Case:
    """An entry as it was read.

    Attributes:
        folder: the entry's.
        entry: its `entry.json`.
        hashes: file ▸ sha256, as the files are now.
        samples: scores.
        answers: answers.
        baseline: the case to compare with; None for a baseline, and where there is none.
        problem: why there is no baseline.
    """

    folder: Path
    entry: Entry
    hashes: Mapping[str, str]
    samples: StoredSamples
    answers: Answers
    baseline: "Case | None" = field(default=None, repr=False)
    problem: str = ""

    @property
    def record(self) -> dict[str, Any]:
        """The steering record of the run."""
        return self.samples.results.steering

    @property
    def blank(self) -> bool:
        """Whether the model was shown grey images."""
        return self.record.get("image") == BLANK

    @cached_property
    def role(self) -> str:
        """baseline, prompted, steered, control or other; an unsteered run with blank images is a baseline too."""
        changed = any(self.record.get(key) for key in ("spec", "answer_bias", "contrast"))
        if self.entry.harness_task != self.entry.task and not changed:
            return PROMPTED
        if self.record and not changed:
            return BASELINE
        return role_of({self.entry.task: self.samples})

    @cached_property
    def unpaired(self) -> str:
        """Why the entry cannot be compared with its baseline question by question; "" if it can."""
        if self.baseline is None:
            return self.problem
        if self.samples.direction != self.baseline.samples.direction:
            return "its results file says that less is better where the baseline's says more, or the reverse"
        differences = setting_differences(self.samples, self.baseline.samples)
        prompted = self.entry.harness_task != self.entry.task
        return pairing_problem(
            self.samples, self.baseline.samples, differences, (), text_may_differ=prompted, hint=False
        )

    @cached_property
    def effect(self) -> Effects | None:
        """The paired effect; None where there is no comparison."""
        if self.baseline is None or self.unpaired:
            return None
        return task_effects(self.changes[None], self.images)

    @cached_property
    def changes(self) -> Floats:
        """How much better each question scores than the baseline's, where there is a comparison."""
        assert self.baseline is not None
        return (self.samples.scores - self.baseline.samples.scores) * self.baseline.samples.direction

    @cached_property
    def images(self) -> Ints | None:
        """The image of each question, as 0, 1, …; None where no two questions share one."""
        assert self.baseline is not None
        return shared_images([{"run": self.samples, "baseline": self.baseline.samples}])


def read_case(folder: Path, entry: Entry, hashes: Mapping[str, str]) -> Case:
    """Read an entry's results and samples.

    Raises:
        UserError: as `read_stored`.
    """
    samples, answers = read_stored(folder, entry, hashes["samples.parquet"])
    return Case(folder, entry, hashes, samples, answers)
