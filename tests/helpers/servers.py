"""HTTP servers on this machine, in place of sites that the package asks."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, bytes, dict[str, str]]
"""Status, body and headers."""


@contextmanager
def http_server(answer: Callable[[str, bytes], Answer | None]) -> Iterator[str]:
    """Serve inside the block; gives the server's address.

    Args:
        answer: from a request's path and body; None for a server that never answers.
    """
    stop = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answered = answer(self.path, self.rfile.read(int(self.headers["Content-Length"] or 0)))
            if answered is None:
                stop.wait(20)
                return
            status, body, headers = answered
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
