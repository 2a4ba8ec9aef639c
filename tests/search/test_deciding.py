"""The token that decides between the choices: where it is, and the damage and the patched answers there."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lmms_eval.filters import build_filter_ensemble
from scipy.stats import entropy

from lmms_steer.replay.engine import Replay
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.replay.setup import ReplayOptions
from lmms_steer.search import deciding, generation_scorer
from lmms_steer.search.budget_study import _DamageScorer
from lmms_steer.search.deciding import deciding_places
from lmms_steer.search.generation_scorer import GenerationScorer
from lmms_steer.search.layer_scores.patching import patched_answers
from lmms_steer.search.questions import Question
from lmms_steer.steering.anatomy import decoder_layers
from tests.helpers.checkpoints import build, inputs
from tests.helpers.models import picture

TEXTS = ("where is the cat ?", "how many cups are on the table ?", "where is the dog ?")
PLACES = [1, 0, 2]
LETTERS = ("A", "B", "C")


@pytest.fixture(scope="module")
def llava() -> Any:
    model, processor = build("llava")
    with torch.no_grad():
        for layer in model.get_decoder().layers:
            # so that the pictures count at every token
            layer.self_attn.o_proj.weight.mul_(30.0)
        model.get_output_embeddings().weight.mul_(20.0)
    return model, processor


def question(answers: tuple[str, ...], number: int = 0) -> Question:
    return Question(number, TEXTS[number], [picture(number)], answers, 0, None)


@pytest.mark.parametrize(
    ("answers", "tokens", "place"),
    [
        (LETTERS, "(|A|)|<eos>", 1),
        (LETTERS, "A|)", 0),
        (LETTERS, "The| answer| is| (|B|).", 4),
        (LETTERS, "It| is| a| cat", 0),
        (LETTERS, "Cat|s", 0),
        (("yes", "no"), "It| is|:| Yes", 3),
        (("left of", "left under"), "(|left| under|)", 2),
        (("red", "redder"), "red|der", 1),
        ((), "(|A|)", 0),
        (LETTERS, "So| the| thing| in| the| middle| is| not| A", 0),
    ],
)
def test_the_token_that_decides_is_the_first_that_depends_on_the_choice(
    answers: tuple[str, ...], tokens: str, place: int
) -> None:
    parts = tokens.split("|")
    decode = lambda ids, skip_special_tokens: "".join(parts[i] for i in ids).replace("<eos>", "")  # noqa: ARG005, E731
    ids = torch.arange(len(parts))[None]
    assert deciding_places(SimpleNamespace(decode=decode), [question(answers)], ids) == [place]


def forced_logits(model: Any, row: dict[str, Any], layer: int, delta: torch.Tensor, text: list[int]) -> torch.Tensor:
    """The logits after prompt and text, from one pass without a cache; the prompt's image tokens are steered."""
    ids = torch.cat((row["input_ids"], torch.tensor([text], dtype=torch.long)), 1)
    mask = (ids == model.config.image_token_id)[..., None]

    def add(_: Any, __: Any, output: Any) -> Any:
        return output + mask * delta

    handle = decoder_layers(model)[layer].register_forward_hook(add)
    try:
        with torch.inference_mode():
            logits: torch.Tensor = model(input_ids=ids, pixel_values=row["pixel_values"]).logits[0, -1]
    finally:
        handle.remove()
    return logits.double()


@pytest.fixture
def asked(llava: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model, its processor, three pictures, the questions about them as a batch, the unsteered answers, and a task's
    config; the tokens that decide are at `PLACES`."""
    model, processor = llava
    pictures = [picture(number) for number in range(3)]
    batch = inputs("llava", processor, list(TEXTS), pictures)
    monkeypatch.setattr(generation_scorer, "deciding_places", lambda *_: PLACES)
    written = model.generate(**batch, max_new_tokens=4, do_sample=False)[:, batch["input_ids"].shape[1] :].tolist()
    config = SimpleNamespace(output_type="generate_until", generation_kwargs={"max_new_tokens": 4}, task="t")
    config.metric_list = [{"metric": "acc"}]
    return model, processor, pictures, batch, written, config


def test_the_damage_is_that_of_the_token_that_decides_after_the_unsteered_words(asked: Any) -> None:
    model, processor, pictures, batch, written, config = asked
    filters = [build_filter_ensemble("none", [["take_first", None]])]
    task = SimpleNamespace(config=config, _filters=filters, process_results=lambda *_: {"acc": 1.0})
    lm = SimpleNamespace(model=model, tokenizer=processor.tokenizer, first_token=lambda word: ord(word[0]))
    questions = [question(("a", "b"), number) for number in range(3)]

    def scorer() -> GenerationScorer:
        return GenerationScorer(lm, task, questions, batch)

    delta = 4 * torch.randn(48, generator=torch.Generator().manual_seed(1))
    deltas, targets = torch.stack((delta, -delta, 1e-9 * delta)), ["image"] * 3
    expected = torch.zeros(3, 3)
    for number, place in enumerate(PLACES):
        row = inputs("llava", processor, [TEXTS[number]], [pictures[number]])
        logits = [forced_logits(model, row, 1, d, written[number][:place]) for d in (0 * delta, *deltas)]
        base, *steered = (one.softmax(-1) for one in logits)
        expected[:, number] = torch.tensor([entropy(base, one) for one in steered])
    assert expected[:2].min() > 0.1, "every question is damaged"
    for source in (Replay(model, batch, ReplayOptions(("image",), generates=True)), HookedBatch(model, batch)):
        assert torch.allclose(scorer().scores(source, 1, deltas, targets).kl, expected, rtol=1e-3, atol=1e-5)
        alone = _DamageScorer(scorer())
        assert torch.allclose(alone.scores(source, 1, deltas, targets).kl, expected, rtol=1e-3, atol=1e-5)


def test_answer_biases_are_fitted_on_the_logits_of_the_token_that_decides(asked: Any) -> None:
    model, processor, pictures, batch, written, config = asked
    decided = [text[place] for text, place in zip(written, PLACES, strict=True)]
    # the first question is answered in brackets, the second without, the third by neither choice
    first = {"a0": 5, "b0": 6, "a1": decided[1], "b1": 7, "a2": 5, "b2": 6}
    bracketed = {**first, "a0": 8, "b0": decided[0]}
    lm = SimpleNamespace(
        model=model, tokenizer=processor.tokenizer, first_token=first.get, bracketed_token=bracketed.get
    )
    questions = [question((f"a{number}", f"b{number}"), number) for number in range(3)]
    for source in (Replay(model, batch, ReplayOptions(("image",), generates=True)), HookedBatch(model, batch)):
        found = GenerationScorer(lm, SimpleNamespace(config=config), questions, batch).answer_logits(source)
        for number, ids in enumerate(([8, decided[0]], [decided[1], 7])):
            row = inputs("llava", processor, [TEXTS[number]], [pictures[number]])
            logits = forced_logits(model, row, 1, torch.zeros(48), written[number][: PLACES[number]])
            assert found[number] == pytest.approx(logits[ids].tolist(), abs=1e-4)
        assert all(value != value for value in found[2])


def test_patched_answers_are_read_at_the_token_that_decides(llava: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = llava
    lm: Any = SimpleNamespace(model=model, tokenizer=processor.tokenizer)
    lm.model_inputs = lambda texts, visuals: inputs("llava", processor, list(texts), [own[0] for own in visuals])
    monkeypatch.setattr(deciding, "deciding_places", lambda *_: PLACES)
    others = [Question(9, "?", [picture(10 + number)], (), 0, None) for number in range(3)]
    pairs = [(question(LETTERS, number), other) for number, other in enumerate(others)]
    batch = lm.model_inputs(TEXTS, [own.visuals for own, _ in pairs])
    written = model.generate(**batch, max_new_tokens=4, do_sample=False)[:, batch["input_ids"].shape[1] :].tolist()
    found = patched_answers(lm, pairs, [0, 3], "both")
    for (own, other), row, text, place in zip(pairs, found, written, PLACES, strict=True):
        pictures: list[Any] = [own.visuals[0], other.visuals[0]]
        one, two = (lm.model_inputs([own.text], [[image.resize((32, 32))]]) for image in pictures)
        zero = torch.zeros(48)
        answers = [int(forced_logits(model, each, 0, zero, text[:place]).argmax()) for each in (one, two)]
        assert row[:2] == answers
