"""Notes and warnings: they are logged under "lmms_steer", and the command line prints them to stderr.

A program that imports the package decides for itself what it wants to see, for example with
`logging.getLogger("lmms_steer").setLevel(logging.ERROR)`. Printed notes begin with `lmms-steer note: `, warnings with
`lmms-steer WARNING: `. Only errors begin with `lmms-steer: `, so that a log can be searched for them.
"""

import logging
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

from lmms_steer.errors import printable

Result = TypeVar("Result")

LOGGER = logging.getLogger("lmms_steer")


class _StderrHandler(logging.Handler):
    """Prints to the current `sys.stderr`, which a recipe's worker redirects."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = "WARNING" if record.levelno >= logging.WARNING else "note"
        print(f"lmms-steer {kind}: {printable(record.getMessage())}", file=sys.stderr)  # noqa: T201


def print_notes() -> None:
    """Print notes and warnings to stderr from now on. For command lines; a second call changes nothing."""
    if not any(isinstance(handler, _StderrHandler) for handler in LOGGER.handlers):
        LOGGER.addHandler(_StderrHandler())
        LOGGER.setLevel(logging.INFO)
        LOGGER.propagate = False


def log_lines(lines: Generator[str, None, Result]) -> Result:
    """Log what a command would print, warnings as such, and return what the generator returns."""
    while True:
        try:
            line = next(lines)
        except StopIteration as end:
            result: Result = end.value
            return result
        warning = line.lstrip().startswith("WARNING: ")
        LOGGER.log(logging.WARNING if warning else logging.INFO, "%s", line.lstrip().removeprefix("WARNING: "))


@contextmanager
def quiet_in_logs() -> Iterator[None]:
    """Hide the progress bars of transformers and the Hub inside the block if stderr is not a terminal.

    Only for loading by this package: what lmms-eval loads keeps its progress bars.
    """
    from transformers.utils import logging as transformers_logging

    if sys.stderr.isatty() or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()
