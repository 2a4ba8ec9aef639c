"""Torture the long commands: faults, and the command again until it ends. Status 1 if anything did not hold."""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.torture import mounts, warm
from tests.torture.faults import FAULTS, MOUNTED
from tests.torture.subjects import SUBJECTS
from tests.torture.trials import planned_faults, prepare, run_trials, uninterrupted

COLUMNS = ("survived", "resumed", "equal", "failed")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--faults", type=int, default=20, help="faults for each command")
    parser.add_argument("--commands", default=",".join(SUBJECTS), help="the commands, separated by commas")
    parser.add_argument("--only", default=",".join(FAULTS), help="the kinds of faults, separated by commas")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything that is drawn")
    parser.add_argument("--jobs", type=int, default=2, help="trials at the same time")
    parser.add_argument("--fresh", type=int, default=1, help="first kills that start the console script anew")
    parser.add_argument("--folder", type=Path, help="working folder, which is kept; default: a temporary one")
    options = parser.parse_args(arguments)
    root, began = options.folder or Path(tempfile.mkdtemp(prefix="lmms-steer-torture-")), time.monotonic()
    prepare(root.resolve())
    kinds = options.only.split(",")
    if set(kinds) & set(MOUNTED) and not mounts.may_mount():
        print(f"skipped, because nothing can be mounted here: {', '.join(MOUNTED)}")
        kinds = [kind for kind in kinds if kind not in MOUNTED]
    warm.import_everything()
    print(f"imported in {time.monotonic() - began:.0f} s; logs: {root}", flush=True)
    counts: dict[tuple[str, str], dict[str, int]] = {}
    for name in options.commands.split(","):
        reference = uninterrupted(root.resolve(), name)
        planned = planned_faults(kinds, options.faults, options.seed, name)
        for fault, outcome in run_trials(root.resolve(), name, planned, reference, options.jobs, options.fresh):
            row = counts.setdefault((name, fault), dict.fromkeys(("faults", *COLUMNS), 0))
            row["faults"] += 1
            row["failed"] += bool(outcome.failures)
            for column in COLUMNS[:3]:
                row[column] += getattr(outcome, column)
    print(_table(counts))
    total, failed = (sum(row[column] for row in counts.values()) for column in ("faults", "failed"))
    print(f"{total} faults, {failed} failed; {(time.monotonic() - began) / 60:.1f} minutes")
    if options.folder is None and not failed:
        shutil.rmtree(root)
    return 1 if failed else 0


def _table(counts: Mapping[tuple[str, str], Mapping[str, int]]) -> str:
    header = f"{'command':10}{'fault':12}{'faults':>8}" + "".join(f"{column:>10}" for column in COLUMNS)
    rows = [
        f"{name:10}{fault:12}{row['faults']:8}" + "".join(f"{row[column]:10}" for column in COLUMNS)
        for (name, fault), row in sorted(counts.items(), key=lambda item: list(SUBJECTS).index(item[0][0]))
    ]
    return "\n".join(["", header, *rows, ""])


if __name__ == "__main__":
    sys.exit(main())
