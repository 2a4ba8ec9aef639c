"""A headless Chromium, driven over its debugging pipe; needs no driver program and no library."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
_QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
_QUIET += " --disable-component-update --disable-sync --hide-scrollbars --remote-debugging-pipe"


class Page:
    """An open page."""

    def __init__(self, to: Any, back: Any) -> None:
        self._to, self._back, self._number, self._session, self._unread = to, back, 0, "", b""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the Chrome DevTools Protocol, and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _message(self) -> bytes:
        while b"\0" not in self._unread:
            piece = os.read(self._back.fileno(), 1 << 16)
            assert piece, "the browser has ended"
            self._unread += piece
        message, _, self._unread = self._unread.partition(b"\0")
        return message

    def open(self, path: Path) -> None:
        """Open a file, and wait until it is loaded."""
        self.call("Page.navigate", url=path.as_uri())
        self.run("new Promise((done) => document.readyState === 'complete' ? done() : addEventListener('load', done))")

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, code: int, text: str = "") -> None:
        """Press and release a key of the keyboard; `text` is what it types, of Enter a carriage return."""
        for kind in ("keyDown" if text else "rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """Start a browser with one page; it ends with the block."""
    (browser_in, our_out), (our_in, browser_out) = os.pipe(), os.pipe()
    line = f'exec "$0" {_QUIET} "--user-data-dir=$1" 3<&{browser_in} 4>&{browser_out} 2>/dev/null'
    process = subprocess.Popen(["bash", "-c", line, BROWSER, str(profile)], pass_fds=(browser_in, browser_out))
    os.close(browser_in)
    os.close(browser_out)
    try:
        with os.fdopen(our_out, "wb") as to, os.fdopen(our_in, "rb") as back:
            yield Page(to, back)
    finally:
        process.terminate()
        process.wait(20)
