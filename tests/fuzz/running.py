"""Run a reader on damaged input: it returns a value or raises a `UserError`, in bounded time and memory."""

import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmms_steer.errors import UserError

SECONDS = 20
"""Limit for one example. The examples take milliseconds; the machine may be busy."""
GIBIBYTES = 2
"""Limit of the memory that one example may add."""

COUNTS: Counter[tuple[str, str]] = Counter()
"""(reader, `value` or `UserError`) ▸ number of examples."""


class TooSlow(BaseException):
    """Not an `Exception`, so that no reader mistakes it for damage in its file."""


def check(reader: str, read: Callable[..., Any], *arguments: Any) -> None:
    """Run a reader once on some arguments, and count the outcome.

    Raises:
        Exception: whatever else than a `UserError` the reader raises.
    """
    with _limits():
        try:
            read(*arguments)
        except UserError as error:
            assert str(error) and str(error).isprintable(), f"not one clear line: {error!r}"
            COUNTS[reader, "UserError"] += 1
        else:
            COUNTS[reader, "value"] += 1


@contextmanager
def _limits() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooSlow(f"longer than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (GIBIBYTES << 30), hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)
