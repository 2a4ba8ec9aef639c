"""Neuronpedia's explanations of SAE features: fetched one by one, and again after a failure that may pass."""

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from dataclasses import dataclass
from typing import Any

from lmms_steer import __version__
from lmms_steer._util.formatting import count_noun
from lmms_steer.errors import reason

SITE = "https://www.neuronpedia.org"
SITE_VARIABLE = "LMMS_STEER_NEURONPEDIA"
"""Environment variable: another address for the site, or `none` to do without explanations."""
DELAYS = (1.0, 2.0, 4.0)
"""Seconds before each further try. The site's own `Retry-After` counts instead, up to `MAX_DELAY`."""
MAX_DELAY = 30.0
_TIMEOUT_SECONDS = 10
_MAX_BYTES = 2**24
_GIVE_UP_AFTER = 3
"""After this many features in a row for which the site did not answer, it is not asked again."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What Neuronpedia says about a feature.

    Attributes:
        text: the explanation; None if there is none.
        problem: why the site did not answer; None if it did, or need not be asked.
    """

    text: str | None = None
    problem: str | None = None


class Explanations:
    """Fetches explanations, for several threads at once, and counts them."""

    def __init__(self) -> None:
        self._site = (os.environ.get(SITE_VARIABLE) or SITE).rstrip("/")
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._failures = 0
        self._problem = ""

    def of(self, neuronpedia: str | None, feature: int) -> Explanation:
        """Fetch the explanation of a feature.

        Args:
            neuronpedia: the SAE's id there, such as `gemma-2-2b/12-gemmascope-res-16k`; None: it has none.
            feature: its number in the SAE.
        """
        if neuronpedia is None or self._site == "none":
            return Explanation()
        if self.outage is not None:
            return self._counted(Explanation(problem=self.outage))
        try:
            page = _fetch(f"{self._site}/api/feature/{neuronpedia}/{feature}")
        except _NoAnswerError as error:
            return self._counted(Explanation(problem=str(error)))
        return self._counted(Explanation(_description(page)))

    @property
    def failed(self) -> bool:
        """Whether the site did not answer for some feature."""
        return self._counts["not fetched"] > 0

    @property
    def outage(self) -> str | None:
        """Why the site is not asked any more; None while it is."""
        return self._problem if self._failures >= _GIVE_UP_AFTER else None

    def summary(self) -> str:
        """How many explanations were found, do not exist, and could not be fetched; "" if the site was not asked."""
        parts = [f"{self._counts[key]} {key}" for key in ("without one", "not fetched") if self._counts[key]]
        found = count_noun(self._counts["found"], "explanation")
        return f"Neuronpedia: {', '.join([found, *parts])}" if self._counts.total() else ""

    def _counted(self, explanation: Explanation) -> Explanation:
        with self._lock:
            if explanation.problem is None:
                self._counts["found" if explanation.text else "without one"] += 1
                self._failures = 0
            else:
                self._counts["not fetched"] += 1
                self._failures, self._problem = self._failures + 1, explanation.problem
        return explanation


class _NoAnswerError(Exception):
    """The site did not answer; the message says why."""


def _fetch(url: str) -> Any:
    """The content of a page of the site's API; None for a page that does not exist.

    Raises:
        _NoAnswerError: when all tries fail, or the site answers with something other than JSON or refuses the request.
    """
    request = urllib.request.Request(url, headers={"User-Agent": f"lmms-steer/{__version__}"})
    problem = ""
    for delay in (*DELAYS, None):
        wait = 0.0
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as reply:
                return json.loads(reply.read(_MAX_BYTES))
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.NOT_FOUND:
                return None
            problem = f"status {error.code}"
            if error.code < http.HTTPStatus.INTERNAL_SERVER_ERROR and error.code != http.HTTPStatus.TOO_MANY_REQUESTS:
                break
            wait = _retry_after(error)
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", None)
            problem = reason(cause if isinstance(cause, Exception) else error)
        except (ValueError, RecursionError):
            problem = "its reply is not JSON"
            break
        if delay is not None:
            time.sleep(wait or delay)
    raise _NoAnswerError(problem)


def _retry_after(error: urllib.error.HTTPError) -> float:
    """Seconds that a reply asks to wait, 0 if it does not."""
    value = error.headers.get("Retry-After") or ""
    return min(float(value), MAX_DELAY) if value.isdecimal() else 0.0


def _description(page: Any) -> str | None:
    try:
        text = page["explanations"][0]["description"]
    except (KeyError, TypeError, IndexError):
        return None
    return text[:500] if isinstance(text, str) and text.strip() else None
