"""Stand-ins for SLURM's programs, as they behave without accounting: jobs are processes of this machine."""

import os
import subprocess
import sys
from pathlib import Path

_PROGRAMS = {
    # the job's own script, in a session of its own, in which nothing of this terminal reaches it
    "sbatch": """\
number=$(( $(ls "$JOBS" | wc -l) + 1 ))
SLURM_JOB_ID=$number setsid sh "$1" > "$JOBS.log" 2>&1 < /dev/null &
echo $! > "$JOBS/$number"
echo "Submitted batch job $number"
""",
    "srun": """\
while [ "${1#--}" != "$1" ]; do
  case $1 in --output | --error) shift 2 ;; *) shift ;; esac
done
exec "$@"
""",
    "squeue": """\
for job in "$JOBS"/*; do
  # a container may have nobody to collect the zombies
  ps -o stat= -s "$(cat "$job")" | grep -qv Z && basename "$job"
done
exit 0
""",
    "scancel": """\
test -e "$JOBS/$1" || { echo "scancel: error: Invalid job id $1" >&2; exit 1; }
kill -9 -- "-$(cat "$JOBS/$1")"
""",
    "sacct": 'echo "Slurm accounting storage is disabled" >&2; exit 1\n',
}


def stand_ins(folder: Path) -> dict[str, str]:
    """Write the programs into a folder; the variables with which they are found."""
    programs, jobs = folder / "programs", folder / "jobs"
    programs.mkdir()
    jobs.mkdir()
    for name, script in _PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\nJOBS={jobs}\n{script}")
        (programs / name).chmod(0o755)
    return {"PATH": f"{programs}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def queued() -> list[str]:
    """Ids of the jobs that are in the queue."""
    return subprocess.run(["squeue"], capture_output=True, text=True, check=True).stdout.split()
