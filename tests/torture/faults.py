"""The faults: each runs a command until it has suffered, and leaves its folder as a user would find it."""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.torture import mounts
from tests.torture.clock import restamp
from tests.torture.subjects import OUT, Subject
from tests.torture.warm import Launched, still_working_in


@dataclass
class Trial:
    """One fault against one command, in a folder of its own.

    Attributes:
        subject: the command.
        folder: the folder that it runs in; it writes to `out` in it.
        drawn: the trial's random numbers.
        work: CPU seconds of an uninterrupted run.
        bytes, files: what an uninterrupted run writes.
        fresh: start the console script as a user does.
        launched: the runs so far.
        damaged: files that the fault has cut, as paths in `out`.
        clock: seed of the jumps of the clock of all runs; None for the true time.
    """

    subject: Subject
    folder: Path
    drawn: random.Random
    work: float
    bytes: int
    files: int
    fresh: bool = False
    launched: list[Launched] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    clock: int | None = None

    @property
    def out(self) -> Path:
        return self.folder / OUT

    def launch(self) -> Launched:
        """Start the command once more."""
        log = self.folder / f"{len(self.launched)}.log"
        launched = Launched(self.subject.words, self.folder, log, self.clock, self.fresh)
        self.launched.append(launched)
        return launched

    def run_into_kill(self) -> None:
        """Start the command and SIGKILL it at a random moment: in its CPU time, or while it writes its n-th file."""
        moment, files = self.drawn.uniform(0.05, 1.0) * self.work, 10**9
        if self.drawn.random() < 0.6:
            moment, files = 1e9, self._files_so_far() + self.drawn.randint(1, max(1, self.files))
        pause = self.drawn.expovariate(100)
        launched = self.launch()
        while launched.poll() is None and launched.seconds_of_work() < moment and self._files_so_far() < files:
            time.sleep(0.002)
        time.sleep(pause)
        launched.kill()

    def _files_so_far(self) -> int:
        return sum(len(names) for _, _, names in os.walk(self.out))


def kill(trial: Trial) -> None:
    """SIGKILL at a random moment; now and then another one at the next run."""
    for _ in range(trial.drawn.choice((1, 1, 2))):
        trial.run_into_kill()


def full_disk(trial: Trial) -> None:
    """The disk is full before the run has written all its files; there is room afterwards."""
    pages = max(1, int(trial.drawn.uniform(0.02, 0.98) * trial.bytes / 4096))
    mounts.resize(trial.out, f"{4 * pages}k")
    trial.launch().wait()
    mounts.resize(trial.out, mounts.ROOMY)


def cut_file(trial: Trial) -> None:
    """After a run that was killed, or that ended, a file is shorter than it was written."""
    if trial.drawn.random() < 0.5:
        trial.run_into_kill()
        _wait_for_workers(trial)
    else:
        trial.launch().wait()
    files = sorted(path for pattern in trial.subject.cuttable for path in trial.out.glob(pattern) if path.is_file())
    files = [path for path in files if path.stat().st_size and not path.name.endswith((".lock", ".log"))]
    if files:
        path = trial.drawn.choice(files)
        with path.open("r+b") as file:
            file.truncate(trial.drawn.choice((0, trial.drawn.randrange(path.stat().st_size))))
        trial.damaged.append(str(path.relative_to(trial.out)))


def read_only(trial: Trial) -> None:
    """After a kill the folder cannot be written to; it can afterwards."""
    trial.run_into_kill()
    _wait_for_workers(trial)
    mounts.set_read_only(trial.out, True)
    trial.launch().wait()
    mounts.set_read_only(trial.out, False)


def clock(trial: Trial) -> None:
    """The clock jumps by years during both runs; between them so do the stamps of the files."""
    trial.clock = trial.drawn.randrange(2**31)
    trial.run_into_kill()
    _wait_for_workers(trial)
    restamp((path for path in trial.out.rglob("*") if path.is_file()), trial.drawn)


FAULTS: dict[str, Callable[[Trial], None]] = {
    "kill": kill,
    "full disk": full_disk,
    "cut file": cut_file,
    "read-only": read_only,
    "clock": clock,
}
SHARES = {"kill": 6, "full disk": 4, "cut file": 5, "read-only": 2, "clock": 3}
"""How many of 20 faults are of each kind."""
MOUNTED = ("full disk", "read-only")
"""Faults that need a mount."""


def _wait_for_workers(trial: Trial) -> None:
    """Wait until what a killed run has started is gone, too: it notices within a second."""
    until = time.monotonic() + 60
    while still_working_in(trial.folder) and time.monotonic() < until:
        time.sleep(0.05)
