"""The check of a judge's endpoint, before a model is loaded: one token, a short wait, one clear line."""

import json
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from typer.testing import CliRunner

from lmms_steer import UserError
from lmms_steer.cli import app
from lmms_steer.extraction.sae_endpoint import DEFAULT_JUDGE_MODEL, JudgeEndpoint, configured_endpoint
from lmms_steer.extraction.sae_verdicts import Verdict, Verdicts
from tests.helpers.servers import Answer, http_server

ANSWERS: Answer = (200, b'{"choices": [{"message": {"content": "ok"}}]}', {})
HTML: Answer = (200, b"<!doctype html><title>Log in</title>", {"Content-Type": "text/html"})
KEY = "sk-very-secret-key"


def endpoint(address: str) -> JudgeEndpoint:
    return JudgeEndpoint(f"{address}/v1", KEY, "judge-1", 60)


def refused(status: int, message: str) -> Answer:
    return status, json.dumps({"error": {"message": message}}).encode(), {}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (ANSWERS, None),
        (refused(400, "Could not finish: max_tokens or model output limit was reached."), None),
        (HTML, "answers with a web page (HTML): is OPENAI_BASE_URL right? It usually ends with /v1"),
        ((200, b'{"error": "no"}', {}), "answers without choices: is OPENAI_BASE_URL right?"),
        ((200, b"", {}), "answers with something other than JSON: is OPENAI_BASE_URL right?"),
        (refused(401, f"Incorrect API key provided: {KEY}"), "refuses the key (status 401): check OPENAI_API_KEY"),
        (refused(404, "The model `judge-1` does not exist"), "does not exist (status 404): set LMMS_STEER_JUDGE_MODEL"),
        ((404, b"<html>not found", {}), "has no such page (status 404): is OPENAI_BASE_URL right?"),
        (refused(429, "quota"), "refuses the request (status 429): its rate limit or quota is used up"),
        (refused(503, "overloaded"), "fails (status 503)"),
    ],
)
def test_what_an_endpoint_answers_is_said_in_one_line_without_the_key(answer: Answer, expected: str | None) -> None:
    requests: list[tuple[str, dict[str, Any]]] = []

    def answered(path: str, body: bytes) -> Answer:
        requests.append((path, json.loads(body)))
        return answer

    with http_server(answered) as address:
        problem = endpoint(address).problem(5)
    ((path, request),) = requests
    assert path == "/v1/chat/completions" and request["model"] == "judge-1" and request["max_completion_tokens"] == 1
    if expected is None:
        assert problem is None
    else:
        assert problem is not None and problem.startswith(f"the judge judge-1 at {address}/v1 {expected}")
        assert KEY not in problem and "\n" not in problem


def test_a_server_that_knows_only_the_older_name_of_the_limit_is_asked_by_it() -> None:
    def answered(path: str, body: bytes) -> Answer:
        known = "max_tokens" in json.loads(body)
        return ANSWERS if known else refused(400, "Unrecognized request argument: max_completion_tokens")

    with http_server(answered) as address:
        assert endpoint(address).problem(5) is None


def test_an_endpoint_that_hangs_or_is_not_there_is_given_up_in_time() -> None:
    with http_server(lambda path, body: None) as address:
        problem = endpoint(address).problem(0.2)
    assert problem == f"the judge judge-1 at {address}/v1 does not answer within 0.2 s"
    gone = JudgeEndpoint("http://me:password@127.0.0.1:9/v1", KEY, "judge-1", 60).problem(5)
    assert gone == "the judge judge-1 at http://127.0.0.1:9/v1 cannot be reached (Connection refused)"


def test_a_host_name_that_is_looked_up_for_too_long_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    over = Event()

    def look_up(*_: Any, **__: Any) -> None:
        over.wait(10)
        raise OSError("no such host")

    monkeypatch.setattr("socket.getaddrinfo", look_up)
    problem = endpoint("http://judge.example").problem(0.2)
    over.set()
    assert problem == "the judge judge-1 at http://judge.example/v1 does not answer within 0.2 s"


def test_the_environment_names_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "LMMS_STEER_JUDGE_MODEL", "LMMS_STEER_JUDGE_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    assert configured_endpoint() is None
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert configured_endpoint() == JudgeEndpoint("https://api.openai.com/v1", KEY, DEFAULT_JUDGE_MODEL, 60)
    assert KEY not in repr(configured_endpoint())


def test_an_extraction_is_refused_before_the_model_is_loaded_unless_all_is_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def loads(*_: Any, **__: Any) -> None:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr("lmms_steer.extraction.extract.Backbone", loads)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")

    def extract(*more: str, method: str = "mean_shift,sae") -> Any:
        words = ("extract", "--backbone", "tiny-gemma2", "--concept", "spatial", "--method", method)
        return CliRunner().invoke(app, [*words, "--store", str(tmp_path), *more])

    done = extract()
    assert isinstance(done.exception, UserError)
    assert "127.0.0.1:9/v1 cannot be reached (Connection refused); or use --judge" in str(done.exception)
    # neither of these asks the judge anything that it has not answered before
    for other in (extract("--judge", "none"), extract(method="sae_denoised")):
        assert isinstance(other.exception, AssertionError)
    Verdicts("tiny-gemma2", "spatial").add("sae", 1, Verdict(True, "r", "judge-1"), [])
    assert isinstance(extract().exception, AssertionError)
