"""Show a board's page on this machine only."""

from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lmms_steer.board.page import SITE
from lmms_steer.errors import UserError, reason


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing for a request."""


def serve(board: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve the page's folder until interrupted.

    Args:
        board: its folder; the page is built.
        port: on 127.0.0.1.
        say: prints a line.

    Raises:
        UserError: for a port that is in use.
    """
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(board / SITE)))
    except OSError as error:
        raise UserError(f"--port {port} cannot be used: {reason(error)}") from error
    with server:
        say(f"http://127.0.0.1:{port} (end with Ctrl-C)")
        server.serve_forever()
