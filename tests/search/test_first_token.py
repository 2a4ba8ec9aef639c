"""Replayed cells write what the model with hooks writes, also with settings that change which token is chosen."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lmms_steer.replay.engine import Replay
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.replay.setup import ReplayOptions
from lmms_steer.search.first_token import FirstToken
from lmms_steer.search.generation_scorer import GenerationScorer
from tests.helpers.checkpoints import build
from tests.helpers.models import batch_of, vectors

LAYER, ALPHA = 1, 0.01


def scorer_of(model: Any, inputs: dict[str, Any], **settings: Any) -> GenerationScorer:
    config = SimpleNamespace(
        output_type="generate_until", generation_kwargs={"max_new_tokens": 5, **settings}, task="t",
        metric_list=[{"metric": "acc"}],
    )  # fmt: skip
    return GenerationScorer(SimpleNamespace(model=model), SimpleNamespace(config=config), [], inputs)


@pytest.fixture
def llava() -> tuple[Any, dict[str, Any]]:
    model, processor = build("llava")
    return model, batch_of("llava", processor, "where is the cat ?", "how many cups are on the table ?")


def written(model: Any, inputs: dict[str, Any], **settings: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """What a cell writes, replayed and with hooks."""
    scorer = scorer_of(model, inputs, **settings)
    delta = torch.from_numpy(vectors()[LAYER].copy()) * ALPHA
    replay = Replay(model, inputs, ReplayOptions(("text",), generates=True))
    sources = replay, HookedBatch(model, inputs)
    replayed, hooked = (scorer.generate(source, LAYER, delta[None], ["text"])[0] for source in sources)
    return replayed, hooked


def first_choices(model: Any, inputs: dict[str, Any]) -> list[int]:
    plain, _ = written(model, inputs)
    return plain[:, 0].tolist()


@pytest.mark.parametrize("tokens", [1, 5])
def test_a_penalty_of_the_checkpoint_acts_on_the_first_token_too(
    llava: tuple[Any, dict[str, Any]], tokens: int
) -> None:
    model, inputs = llava
    # a model that would repeat a word of the prompt first
    wanted = inputs["input_ids"][:, -1]
    with torch.no_grad():
        hidden = model.model(**inputs).last_hidden_state[:, -1]
        model.get_output_embeddings().weight[wanted] = 0.3 * hidden
    plain = first_choices(model, inputs)
    model.generation_config.repetition_penalty = 1e4
    replayed, hooked = written(model, inputs, max_new_tokens=tokens)
    assert torch.equal(replayed, hooked)
    assert replayed[:, 0].tolist() != plain


@pytest.mark.parametrize("name", ["bad_words_ids", "suppress_tokens"])
def test_tokens_that_the_checkpoint_forbids_are_not_written(llava: tuple[Any, dict[str, Any]], name: str) -> None:
    model, inputs = llava
    plain = first_choices(model, inputs)
    setattr(model.generation_config, name, [[i] for i in plain] if name == "bad_words_ids" else plain)
    replayed, hooked = written(model, inputs)
    assert torch.equal(replayed, hooked) and not set(plain) & set(replayed[:, 0].tolist())


def test_the_first_token_repeats_no_pair_of_the_prompt(llava: tuple[Any, dict[str, Any]]) -> None:
    model, inputs = llava
    ids = inputs["input_ids"]
    logits = torch.randn(3, len(ids), 300)
    logits[..., 7] = 100
    # the last token of the prompt was followed by 7 before
    ids[:, 1], ids[:, 2] = ids[:, -1], 7
    assert (FirstToken(model, {}).choose(logits, ids) == 7).all()
    assert (FirstToken(model, {"no_repeat_ngram_size": 2}).choose(logits, ids) != 7).all()


@pytest.mark.parametrize(
    ("settings", "what"), [({"min_new_tokens": 3}, "min_new_tokens=3"), ({"num_beams": 3}, "num_beams=3")]
)
def test_settings_that_only_generate_can_apply_need_hooks(
    llava: tuple[Any, dict[str, Any]], settings: dict[str, Any], what: str
) -> None:
    assert scorer_of(*llava, **settings).why_hooks == f"a replay cannot apply {what}"


def test_settings_that_change_nothing_need_no_hooks(llava: tuple[Any, dict[str, Any]]) -> None:
    model, inputs = llava
    neutral = {"num_beams": 1, "repetition_penalty": 1.0, "min_new_tokens": 0, "no_repeat_ngram_size": 0}
    assert scorer_of(model, inputs, **neutral).why_hooks == ""
    logits = torch.randn(2, len(inputs["input_ids"]), 40)
    assert torch.equal(FirstToken(model, neutral).choose(logits, inputs["input_ids"]), logits.argmax(-1))
