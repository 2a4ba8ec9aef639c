"""The OpenAI-compatible endpoint of a judge: which one the environment names, and whether it answers.

The environment names it by `OPENAI_API_KEY`, `OPENAI_BASE_URL`, `LMMS_STEER_JUDGE_MODEL` (default:
`DEFAULT_JUDGE_MODEL`) and `LMMS_STEER_JUDGE_TIMEOUT` (seconds for an answer, default: 60). The check does without the
openai client, whose import takes seconds, so that a recipe's plan stays quick.
"""

import http.client
import json
import os
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from lmms_steer.errors import UserError, reason

DEFAULT_JUDGE_MODEL = "gpt-5.6-sol"
"""OpenAI's replacement for the paper's o3-mini-2025-01-31, which it shut down on 2026-10-23
(developers.openai.com/api/docs/deprecations)."""
OPENAI_URL = "https://api.openai.com/v1"
CHECK_URL = "is OPENAI_BASE_URL right? It usually ends with /v1"
_DEFAULT_TIMEOUT = "60"
_LIMITS = ("max_completion_tokens", "max_tokens")
"""Names of the limit on an answer's length: the present one, and the one that older servers know."""


@dataclass(frozen=True, slots=True)
class JudgeEndpoint:
    """Where a judge answers.

    Attributes:
        url: base URL.
        key: API key, "" for none.
        model: the judge's name there.
        timeout: seconds for an answer.
    """

    url: str
    key: str = field(repr=False)
    model: str
    timeout: int

    def __str__(self) -> str:
        return f"{self.model} at {self.address}"

    @property
    def address(self) -> str:
        """The URL without a user and a password, which that of a private server may contain."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")

    def problem(self, seconds: float) -> str | None:
        """Ask for one token, and say in one line why the judge cannot be used; None if it answers.

        Args:
            seconds: how long to wait for the answer.
        """
        found: list[str | None] = []
        # looking up a host's name has no time limit of its own
        asking = threading.Thread(target=lambda: found.append(self._ask(seconds)), daemon=True)
        asking.start()
        asking.join(seconds)
        problem = found[0] if found else f"does not answer within {seconds:g} s"
        return f"the judge {self} {problem}" if problem else None

    def _ask(self, seconds: float) -> str | None:
        problem = None
        for limit in _LIMITS:
            try:
                content = self._post({"messages": [{"role": "user", "content": "Say ok."}], limit: 1}, seconds)
            except urllib.error.HTTPError as error:
                body = error.read(100_000)
                if error.code in (400, 422) and b"output limit was reached" in body:
                    return None  # it answers, but thinks for longer than one token
                problem = _refusal(error.code, body)
                if error.code in (400, 422) and limit.encode() in body:
                    continue
                return problem
            except TimeoutError:
                return f"does not answer within {seconds:g} s"
            except (OSError, ValueError, http.client.HTTPException) as error:
                cause = getattr(error, "reason", None)
                return f"cannot be reached ({reason(cause if isinstance(cause, Exception) else error)})"
            return _unusable(content)
        return problem

    def _post(self, request: dict[str, Any], seconds: float) -> bytes:
        login = urlsplit(self.url).netloc.rpartition("@")[0]
        # as the openai client does
        basic, bearer = f"Basic {b64encode(unquote(login).encode()).decode()}", f"Bearer {self.key or 'none'}"
        headers = {"Content-Type": "application/json", "Authorization": basic if login else bearer}
        data = json.dumps({"model": self.model, **request}).encode()
        asking = urllib.request.Request(f"{self.address}/chat/completions", data, headers)
        with urllib.request.urlopen(asking, timeout=seconds) as reply:
            content: bytes = reply.read(1_000_000)
        return content


def configured_endpoint() -> JudgeEndpoint | None:
    """The endpoint that the environment names; None if it names neither a key nor an address.

    Raises:
        UserError: for a timeout that is not in whole seconds.
    """
    key, url = os.environ.get("OPENAI_API_KEY") or "", os.environ.get("OPENAI_BASE_URL") or ""
    if not key and not url:
        return None
    timeout = os.environ.get("LMMS_STEER_JUDGE_TIMEOUT") or _DEFAULT_TIMEOUT
    if not timeout.isdecimal() or int(timeout) == 0:
        raise UserError(f"LMMS_STEER_JUDGE_TIMEOUT={timeout}: expected whole seconds")
    model = os.environ.get("LMMS_STEER_JUDGE_MODEL") or DEFAULT_JUDGE_MODEL
    return JudgeEndpoint(url or OPENAI_URL, key, model, int(timeout))


def describe_text(content: str) -> str:
    """What an endpoint answered instead of JSON, with the likely reason."""
    kind = "a web page (HTML)" if content.lstrip().startswith("<") else "something other than JSON"
    return f"answers with {kind}: {CHECK_URL}"


def _unusable(content: bytes) -> str | None:
    """Why an answer with status 200 is no chat completion; None if it is one."""
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return describe_text(content.decode(errors="replace"))
    has_choices = isinstance(answer, dict) and isinstance(answer.get("choices"), list)
    return None if has_choices else f"answers without choices: {CHECK_URL}"


def _refusal(status: int, body: bytes) -> str:
    """What a refused request means. The endpoint's own words are left out: they may contain parts of the key."""
    if status in (401, 403):
        return f"refuses the key (status {status}): check OPENAI_API_KEY"
    if status == 404 and not body.lstrip().startswith(b"{"):
        return f"has no such page (status 404): {CHECK_URL}"
    if status == 404:
        return "does not exist (status 404): set LMMS_STEER_JUDGE_MODEL to a model of this endpoint"
    if status == 429:
        return "refuses the request (status 429): its rate limit or quota is used up"
    return f"fails (status {status})"
