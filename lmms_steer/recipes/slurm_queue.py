"""Which SLURM jobs have left the queue, also where SLURM keeps no accounting.

submitit asks `sacct`, which knows nothing without accounting: a cancelled job would count as running for ever.
"""

import os
import subprocess
import time
from collections.abc import Collection

LOOK_SECONDS = 30.0
"""How often the queue is looked at; a controller serves many users."""
_TIMEOUT = 60.0


class SlurmQueue:
    """The jobs of this user that SLURM still has."""

    def __init__(self) -> None:
        self._looked = float("-inf")
        self._gone: frozenset[str] = frozenset()

    def gone(self, jobs: Collection[str]) -> frozenset[str]:
        """Return those of the jobs that have left the queue, as of the last look.

        Args:
            jobs: ids of jobs that were submitted.
        """
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            queued = _queued_jobs()
            # a controller that does not answer says nothing about the jobs
            if queued is not None:
                self._gone = frozenset(jobs) - queued
        return self._gone & frozenset(jobs)


def _queued_jobs() -> frozenset[str] | None:
    """Ids of this user's jobs that wait, run or complete; None where SLURM does not say."""
    command = ["squeue", "--noheader", "--user", str(os.getuid()), "--format", "%A"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return frozenset(done.stdout.split()) if done.returncode == 0 else None
