"""A clock that jumps: Python's time and the stamps of files, years forward and back."""

import datetime
import os
import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path

YEAR = 365 * 24 * 3600.0


def jump(seed: int) -> None:
    """Let this process's `time.time` and lmms-eval's date jump by up to three years, at a tenth of the calls."""
    drawn, true, offset = random.Random(seed), time.time, [0.0]

    def jumping() -> float:
        if drawn.random() < 0.1:
            offset[0] = drawn.uniform(-3, 3) * YEAR
        return true() + offset[0]

    class Datetime(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
            return datetime.datetime.fromtimestamp(jumping(), tz)

    time.time = jumping
    time.time_ns = lambda: int(jumping() * 1e9)
    utils = sys.modules.get("lmms_eval.utils")
    if utils is not None:
        # the date in the names of the files that lmms-eval writes
        stub = type(sys)("datetime")
        vars(stub).update(vars(datetime), datetime=Datetime)
        utils.datetime = stub  # type: ignore[attr-defined]


def restamp(paths: Iterable[Path], drawn: random.Random) -> None:
    """Move the stamps of files up to ten years forward or back, each by another time."""
    for path in paths:
        stamp = path.stat().st_mtime + drawn.uniform(-10, 10) * YEAR
        os.utime(path, (stamp, stamp))
