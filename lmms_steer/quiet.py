"""The bars that transformers draws while it loads: for people at a terminal, and noise in a log."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_in_logs() -> Iterator[None]:
    """No bars of transformers and the Hub inside where stderr is no terminal; afterwards they are as they were.

    Only our own loading goes on inside: what lmms-eval loads is drawn as lmms-eval would.
    """
    from transformers.utils import logging

    if sys.stderr.isatty() or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()
