"""Neuronpedia's explanations: what is tried again, what is one feature's only, and what a site that is down means."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from lmms_steer import UserError, concepts
from lmms_steer.extraction import neuronpedia, sae_check
from lmms_steer.extraction.extract import Backbone, Extracted
from lmms_steer.extraction.methods import ExtractionSettings
from lmms_steer.extraction.neuronpedia import Explanation, Explanations
from lmms_steer.extraction.sae_judge import JudgeQuestion
from lmms_steer.extraction.sae_source import Sae, SaeSource
from lmms_steer.extraction.sae_verdicts import Verdict
from tests.helpers.servers import Answer, http_server

SAE = "gemma-2-2b/12-gemmascope-res-16k"
PAGE = json.dumps({"explanations": [{"description": "words of place"}]}).encode()
Site = Callable[[Callable[[int, int], Answer | None]], list[int]]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited for; no time passes."""
    waited: list[float] = []
    monkeypatch.setattr("lmms_steer.extraction.neuronpedia.time.sleep", waited.append)
    return waited


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> Iterator[Site]:
    """Serve the site: `page` gets a feature and how often it was asked for before. Gives the features asked for."""
    with ExitStack() as servers:

        def serve(page: Callable[[int, int], Answer | None]) -> list[int]:
            asked: list[int] = []

            def answer(path: str, body: bytes) -> Answer | None:
                feature = int(path.rpartition("/")[2])
                asked.append(feature)
                return page(feature, asked.count(feature) - 1)

            monkeypatch.setenv("LMMS_STEER_NEURONPEDIA", servers.enter_context(http_server(answer)))
            return asked

        yield serve


def test_a_missing_page_is_one_features_and_a_passing_failure_is_tried_again(
    site: Site, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuronpedia, "_TIMEOUT_SECONDS", 0.3)
    first: dict[int, Answer | None] = {
        1: (404, b"no such feature", {}),
        2: (429, b"", {"Retry-After": "7"}),
        3: (503, b"", {}),
        4: None,
        5: (200, b'{"explanations": []}', {}),
        6: (429, b"", {"Retry-After": "4000"}),
        7: (200, b'{"explanations": [{"description": null}]}', {}),
    }
    asked = site(lambda feature, before: first[feature] if before == 0 else (200, PAGE, {}))
    explanations = Explanations()
    found = [explanations.of(SAE, feature) for feature in first]
    assert [one.text for one in found] == [None, *["words of place"] * 3, None, "words of place", None]
    assert not any(one.problem for one in found) and not explanations.failed
    assert asked == [1, 2, 2, 3, 3, 4, 4, 5, 6, 6, 7]
    assert pauses == [7.0, 1.0, 1.0, 30.0], "what the site asks for, else a second"
    assert explanations.summary() == "Neuronpedia: 4 explanations, 3 without one"


def test_a_site_that_is_down_is_given_up_after_three_features(site: Site, pauses: list[float]) -> None:
    asked = site(lambda feature, before: (500 + feature, b"", {}))
    explanations = Explanations()
    found = [explanations.of(SAE, feature) for feature in range(6)]
    assert asked == [feature for feature in range(3) for _ in range(4)] and pauses == [1.0, 2.0, 4.0] * 3
    assert [one.problem for one in found] == ["status 500", "status 501", *["status 502"] * 4]
    assert explanations.outage == "status 502"
    assert explanations.summary() == "Neuronpedia: 0 explanations, 6 not fetched"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [((403, b"", {}), "status 403"), ((200, b"<html>log in</html>", {}), "its reply is not JSON")],
)
def test_what_does_not_pass_is_not_tried_again(site: Site, answer: Answer, problem: str) -> None:
    asked = site(lambda feature, before: answer)
    assert Explanations().of(SAE, 1) == Explanation(problem=problem) and asked == [1]


def test_a_site_that_cannot_be_reached_says_why(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    monkeypatch.setenv("LMMS_STEER_NEURONPEDIA", "http://127.0.0.1:9")
    assert Explanations().of(SAE, 1) == Explanation(problem="Connection refused") and len(pauses) == 3
    monkeypatch.setenv("LMMS_STEER_NEURONPEDIA", "none")
    explanations = Explanations()
    assert explanations.of(SAE, 1) == Explanation() and explanations.summary() == ""


@pytest.mark.slow
def test_features_without_an_answer_are_unchecked_and_only_they_are_checked_next_time(
    site: Site, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    true, questions = SaeSource.load, list[JudgeQuestion]()

    def load(source: SaeSource, layer: int) -> Sae:
        return replace(true(source, layer), neuronpedia="tiny/3")

    def judge(question: JudgeQuestion) -> Verdict:
        questions.append(question)
        return Verdict(True, "r", "judge-1")

    monkeypatch.setattr(SaeSource, "load", load)
    monkeypatch.setattr(sae_check, "get_judge", lambda name: judge)
    backbone, concept = Backbone("tiny-gemma2"), concepts.load("spatial")
    activations = backbone.read(concept)

    def extracted() -> Extracted:
        questions.clear()
        return backbone.extract(concept, "sae", activations, ExtractionSettings(layers=(3,)))

    features: list[Any] = backbone.extract(
        concept, "sae", activations, ExtractionSettings(layers=(3,), judge="none")
    ).vectors.provenance["settings"]["layers"]["3"]["features"]
    lost = features[1]["feature"]
    site(lambda feature, before: (503, b"", {}) if feature == lost else (200, PAGE, {}))
    note = extracted().notes[0]
    assert len(questions) == len(features) - 1 and {q.explanation for q in questions} == {"words of place"}
    assert (
        f"{len(features) - 1} kept, 1 UNCHECKED and left in the vector (Neuronpedia did not answer: status 503)" in note
    )
    assert note.startswith("WARNING: spatial: ") and "extract again when Neuronpedia answers" in note
    assert f"Neuronpedia: {len(features) - 1} explanations, 1 not fetched" in note
    (stored,) = yaml.safe_load((own_cache / "verdicts/tiny-gemma2/spatial.yaml").read_text()).values()
    assert lost not in stored and len(stored) == len(features) - 1
    (own_cache / "verdicts/tiny-gemma2/spatial.yaml").unlink()
    down = [f["feature"] for f in features[2:]]
    site(lambda feature, before: (502, b"", {}) if feature in down else (200, PAGE, {}))
    with pytest.raises(UserError, match=r"spatial: Neuronpedia does not answer \(status 502\): run the command again"):
        extracted()
    assert {q.feature for q in questions} == {f"layer 3, feature {f['feature']}" for f in features[:2]}
    site(lambda feature, before: (200, PAGE, {}))
    assert "WARNING" not in extracted().notes[0]
    assert {q.feature for q in questions} == {f"layer 3, feature {feature}" for feature in down}
