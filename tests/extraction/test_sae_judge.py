"""The feature check: endpoints that answer, refuse, hang or reply nonsense; verdicts that a person edits."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from lmms_steer import UserError, concepts
from lmms_steer.extraction.extract import Backbone
from lmms_steer.extraction.methods import ExtractionSettings
from lmms_steer.extraction.sae_contexts import Contexts
from lmms_steer.extraction.sae_judge import JudgeQuestion, get_judge
from lmms_steer.extraction.sae_verdicts import Verdict, Verdicts
from lmms_steer.extraction.shuffled_labels import shuffle_labels
from lmms_steer.tiny_world.checkpoints import TINY_SAE, weights_dir
from tests.helpers.servers import Answer, http_server

QUESTION = JudgeQuestion(
    concepts.load("spatial"), "layer 3, feature 8", ["The cup is <<left>> of it. (4.1)"], "positions"
)
ANCHORS = {pair.anchor for pair in QUESTION.concept.pairs}
Reply = Callable[[dict[str, Any]], tuple[int, Any] | None]
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone("tiny-gemma2")


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Reply], list[dict[str, Any]]]]:
    """Serve chat completions: `reply` gets the request and gives (status, content), or None to never answer.

    Content in bytes is the whole body as it is.
    """
    with ExitStack() as servers:

        def serve(reply: Reply) -> list[dict[str, Any]]:
            requests: list[dict[str, Any]] = []

            def answer(path: str, body: bytes) -> Answer | None:
                request = json.loads(body)
                requests.append(request)
                replied = reply(request)
                if replied is None:
                    return None
                status, content = replied
                if isinstance(content, bytes):
                    return status, content, JSON
                message = {"role": "assistant", "content": content}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                completion = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
                data = completion if status == 200 else {"error": {"message": content}}
                return status, json.dumps(data).encode(), JSON

            address = servers.enter_context(http_server(answer))
            monkeypatch.setenv("OPENAI_BASE_URL", f"{address}/v1")
            monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret-key")
            monkeypatch.setenv("LMMS_STEER_JUDGE_MODEL", "judge-1")
            monkeypatch.setenv("LMMS_STEER_JUDGE_TIMEOUT", "1")
            return requests

        yield serve


@pytest.mark.slow
def test_an_answer_is_read_and_the_question_shows_contexts_and_words(endpoint: Any) -> None:
    requests = endpoint(lambda request: (200, 'Sure: {"means": true, "reason": "words of place"}'))
    assert get_judge("llm")(QUESTION) == Verdict(True, "words of place", "judge-1")
    shown = requests[0]["messages"][1]["content"]
    assert "<<left>>" in shown and "positions" in shown and "above" in shown and requests[0]["model"] == "judge-1"


def test_after_three_unusable_answers_a_feature_is_unchecked(endpoint: Any) -> None:
    requests = endpoint(lambda request: (200, "I would rather not say"))
    verdict = get_judge("llm")(QUESTION)
    assert verdict.means_concept is None and "no usable answer in 3 tries" in verdict.reason and len(requests) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "means"),
    [
        ("", None),
        (None, None),
        (3, None),
        ([{"type": "text", "text": "yes"}], None),
        ('{"reason": "words of place"}', None),
        ('{"means": "yes", "reason": "r"}', None),
        ('{"means": true, "reason": "it ends he', None),
        ('{"a":' * 100_000, None),
        ('{"means": false}', False),
        ('{"means": true, "reason": null}', True),
        ('{"means": true, "reason": "fires on {left}"}', True),
        ('{"answer": {"means": false}}', False),
        ('<think>Draft: {"means": true}. But no.\n</think>\n{"means": false, "reason": "punctuation"}', False),
        ('{"means": true}, no: {"means": false}', None),
        ('{"means": true}, so {"means": true, "reason": "r"}', True),
    ],
)
def test_an_incomplete_answer_is_unusable_and_the_reason_is_optional(endpoint: Any, content: Any, means: Any) -> None:
    requests = endpoint(lambda request: (200, content))
    verdict = get_judge("llm")(QUESTION)
    assert verdict.means_concept is means and len(requests) == (3 if means is None else 1) and verdict.reason != "None"


@pytest.mark.slow
@pytest.mark.parametrize("body", [b"", b'{"id": "1", "cho', b"\xff"])
def test_after_three_truncated_replies_a_feature_is_unchecked(endpoint: Any, body: bytes) -> None:
    requests = endpoint(lambda request: (200, body))
    verdict = get_judge("llm")(QUESTION)
    assert verdict.means_concept is None and "no usable answer in 3 tries" in verdict.reason and len(requests) == 3


@pytest.mark.parametrize("status", [401, 429, 500])
def test_a_refused_request_is_unchecked_with_its_status_and_without_the_key(endpoint: Any, status: int) -> None:
    endpoint(lambda request: (status, "Incorrect API key provided: sk-very-secret-key"))
    judge: Any = get_judge("llm")
    judge.client = judge.client.with_options(max_retries=0)
    verdict = judge(QUESTION)
    assert verdict.means_concept is None and str(status) in verdict.reason
    assert "secret" not in verdict.reason


@pytest.mark.slow
def test_an_endpoint_that_hangs_is_given_up_after_three_requests(endpoint: Any) -> None:
    requests = endpoint(lambda request: None)
    judge: Any = get_judge("llm")
    judge.client = judge.client.with_options(max_retries=0, timeout=0.2)
    verdicts = [judge(QUESTION) for _ in range(5)]
    assert len(requests) == 3 and "Timeout" in verdicts[0].reason and "not asked" in verdicts[4].reason


def test_a_web_page_instead_of_an_answer_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    paths: list[str] = []

    def answer(path: str, body: bytes) -> Answer:
        paths.append(path)
        return 200, b"<!doctype html><title>Log in</title>", {"Content-Type": "text/html"}

    with http_server(answer) as address:
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        judge: Any = get_judge("llm")
        verdicts = [judge(QUESTION) for _ in range(4)]
    assert f"at {address} answers with a web page (HTML): is OPENAI_BASE_URL right?" in verdicts[0].reason
    assert paths == ["/chat/completions"] * 3 and "not asked" in verdicts[3].reason


def extracted(backbone: Backbone, **settings: Any) -> Any:
    concept = concepts.load("spatial")
    return backbone.extract(concept, "sae", backbone.read(concept), ExtractionSettings(**settings))


@pytest.mark.slow
def test_a_judge_of_questions_about_images_reads_the_question_that_a_feature_fires_on(
    endpoint: Any, own_cache: Path, tmp_path: Path
) -> None:
    asked = ("where is it ?", "what colour is it ?")
    Image.new("RGB", (32, 32), "red").save(tmp_path / "red.png")
    row = {"image": "red.png", "prompt": asked[0], "contrast": asked[1]}
    (tmp_path / "questions.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    backbone = Backbone("tiny-paligemma2")
    concept, activations = backbone.read_image_pairs(tmp_path / "questions.jsonl", "place")
    shown = Contexts(shuffle_labels(activations, 0), activations)
    for strongest in range(8):
        (line,) = shown.strongest(np.eye(8, dtype=np.float32)[strongest])
        rows = shown.rows(2)
        is_anchor = np.allclose(rows[strongest], activations.anchors[0, 2], atol=1e-4)
        assert line == f"<<{asked[0] if is_anchor else asked[1]}>> (1)"
    requests = endpoint(lambda request: (200, '{"means": true, "reason": "r"}'))
    settings = ExtractionSettings(sae=str(weights_dir(TINY_SAE)), layers=(3,))
    backbone.extract(concept, "sae", activations, settings)
    assert requests and not any("Words of the concept" in r["messages"][1]["content"] for r in requests)


@pytest.mark.slow
def test_verdicts_are_stored_and_a_person_s_edit_changes_the_vector(
    backbone: Backbone, endpoint: Any, own_cache: Path
) -> None:
    def reply(request: dict[str, Any]) -> tuple[int, str]:
        strongest = re.search(r"<<(\w+)>>", request["messages"][1]["content"])
        means = strongest is not None and strongest[1] in ANCHORS
        return 200, json.dumps({"means": means, "reason": "r"})

    requests = endpoint(reply)
    made = extracted(backbone)
    assert 0 < len(requests) <= 32 and "kept" in made.notes[0] and "dropped" in made.notes[0]
    path = own_cache / "verdicts" / "tiny-gemma2" / "spatial.yaml"
    verdicts = yaml.safe_load(path.read_text())
    assert "secret" not in path.read_text()
    assert extracted(backbone).vectors.sha256 == made.vectors.sha256
    assert len(requests) == sum(map(len, verdicts.values())), "nothing is asked twice"
    sae = next(iter(verdicts))
    kept = next(f for f, v in verdicts[sae].items() if v["means"])
    verdicts[sae][kept]["means"] = False
    path.write_text(yaml.safe_dump(verdicts))
    edited = extracted(backbone)
    verdict_of = {f["feature"]: f["means"] for layer in edited.vectors.provenance["settings"]["layers"].values()
            for f in layer["features"] if layer["sae"] == sae}  # fmt: skip
    assert verdict_of[kept] is False and edited.vectors.sha256 != made.vectors.sha256


def test_without_a_judge_features_are_unchecked_and_kept_with_a_warning(
    backbone: Backbone, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    made = extracted(backbone)
    assert "32 UNCHECKED and left in the vector" in made.notes[0] and "OPENAI_API_KEY" in made.notes[0]
    assert len(made.notes) == 1 and made.notes[0].startswith("WARNING: spatial: ")
    assert "set OPENAI_API_KEY and extract again, or use --judge ask" in made.notes[0]
    features = made.vectors.provenance["settings"]["layers"]["3"]["features"]
    assert {f["means"] for f in features} == {None}
    assert not (own_cache / "verdicts").exists()


@pytest.mark.slow
def test_an_interrupted_check_continues_where_it_stopped(backbone: Backbone, endpoint: Any, own_cache: Path) -> None:
    requests: list[dict[str, Any]] = endpoint(
        lambda request: (200, '{"means": true, "reason": "r"}') if len(requests) <= 10 else (500, "down")
    )
    made = extracted(backbone)
    assert "UNCHECKED" in made.notes[0] and "extract again when its endpoint answers" in made.notes[0]
    done = len(requests)
    stored = sum(map(len, yaml.safe_load((own_cache / "verdicts/tiny-gemma2/spatial.yaml").read_text()).values()))
    assert 0 < stored <= 10 < done
    requests = endpoint(lambda request: (200, '{"means": true, "reason": "r"}'))
    last = extracted(backbone).notes[0]
    assert "UNCHECKED" not in last and "WARNING" not in last
    assert len(requests) == 32 - stored


@pytest.mark.parametrize(
    "text",
    [
        "a: [",
        "- 1",
        "sae: {3: yes-ish}",
        "sae: {3: {means: perhaps}}",
        'sae: {"3": {means: true}}',
        "sae: {3: {means: true, reason: 2026-13-45}}",
        '{"sae": {"3": ',
        "\0",
    ],
)
def test_a_damaged_verdict_file_is_refused_and_not_overwritten(backbone: Backbone, own_cache: Path, text: str) -> None:
    path = own_cache / "verdicts" / "tiny-gemma2" / "spatial.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError, match=r"the verdicts in .* are damaged"):
        extracted(backbone)
    assert path.read_text() == text


def test_concurrent_extractions_keep_each_other_s_verdicts_and_a_person_s(tmp_path: Path) -> None:
    path = tmp_path / "v.yaml"
    first, second = Verdicts("b", "c", path), Verdicts("b", "c", path)
    yes, no = Verdict(True, "r", "judge-1"), Verdict(False, "r", "judge-2")
    assert first.add("sae", 1, yes, ["left"]) == yes and second.add("sae", 2, no, []) == no
    assert first.add("other", 3, yes, []) == yes
    assert second.add("sae", 1, no, []) == yes == second.get("sae", 1), "what stands there counts, for both"
    assert {sae: list(features) for sae, features in yaml.safe_load(path.read_text()).items()} == {
        "sae": [1, 2],
        "other": [3],
    }
    path.write_text(path.read_text().replace("judge-2", "person"))
    first.add("sae", 4, yes, [])
    stored = Verdicts("b", "c", path)
    assert stored.get("sae", 2) == Verdict(False, "r", "person") and stored.get("sae", 4) == yes


def test_a_verdict_on_other_sentences_of_that_name_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "v.yaml"
    yes, no = Verdict(True, "r", "judge-1"), Verdict(False, "r", "judge-1")
    before, now = Verdicts("b", "c", path, "a" * 64), Verdicts("b", "c", path, "b" * 64)
    before.add("sae", 1, no, [])
    assert now.get("sae", 1) is None and now.add("sae", 1, yes, []) == yes
    assert Verdicts("b", "c", path, "b" * 64).get("sae", 1) == yes
    path.write_text("sae: {2: {means: false}}")
    assert Verdicts("b", "c", path, "b" * 64).get("sae", 2) == Verdict(False, "", "person")


def test_a_file_that_is_damaged_while_the_judge_answers_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "v.yaml"
    verdicts = Verdicts("b", "c", path)
    verdicts.add("sae", 1, Verdict(True, "r", "judge-1"), [])
    path.write_text(path.read_text() + "oops: [")
    with pytest.raises(UserError, match=r"the verdicts in '.*v\.yaml' are damaged") as caught:
        verdicts.add("sae", 2, Verdict(True, "r", "judge-1"), [])
    assert "\n" not in str(caught.value) and path.read_text().endswith("oops: [")


def test_unchecked_is_not_stored_as_a_verdict(tmp_path: Path) -> None:
    verdicts = Verdicts("b", "c", tmp_path / "v.yaml")
    verdicts.add("sae", 1, Verdict(None, "no key", "none"), [])
    assert not (tmp_path / "v.yaml").exists()


def test_ask_needs_a_terminal_and_an_unknown_judge_is_refused(backbone: Backbone) -> None:
    with pytest.raises(UserError, match="--judge ask needs a terminal"):
        extracted(backbone, judge="ask")
    with pytest.raises(UserError, match="unknown judge 'gpt': known: ask, llm, none"):
        extracted(backbone, judge="gpt")
