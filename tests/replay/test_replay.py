"""A replay equals the model with hooks: every architecture, target and layer, stacked, on disk, with generated text."""

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lmms_steer import steer
from lmms_steer.replay.engine import Replay
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.replay.setup import ReplayOptions
from lmms_steer.search.generation_scorer import GenerationScorer
from lmms_steer.search.margins import gradients_of_margin
from lmms_steer.search.scorers import LetterScorer
from lmms_steer.steering.anatomy import decoder_layers
from tests.helpers import architectures
from tests.helpers.checkpoints import build
from tests.helpers.models import batch_of, vectors

PADDED = ("where is the cat ?", "how many cups are on the table ?")
EVEN = ("where is the cat ?", "where is the dog ?")
TARGETS = ("image", "text", "both", "last", "text_paper", "both_paper")


@pytest.mark.slow
@pytest.mark.parametrize("texts", [PADDED, EVEN], ids=["padded", "even"])
def test_stacked_cells_equal_the_hooks_at_every_layer_and_target(vlm: Any, texts: tuple[str, ...]) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *texts)
    v = vectors()
    special = tuple(processor.tokenizer.all_special_ids)
    replay = Replay(model, batch, ReplayOptions(TARGETS, special))
    moved = 0.0
    for layer in range(4):
        cells = [(alpha, tokens) for alpha in (0.7, -1.2) for tokens in TARGETS]
        deltas = torch.stack([torch.from_numpy(v[layer]) * alpha for alpha, _ in cells])
        replayed = replay.steer_all(layer, deltas, [tokens for _, tokens in cells])
        for (alpha, tokens), logits in zip(cells, replayed, strict=True):
            line = f"vector=v,layer={layer},alpha={alpha},tokens={tokens}"
            with steer(model, line, {"v": v}, special), torch.no_grad():
                expected = model(**batch).logits[:, -1]
            assert (logits - expected).abs().max() < 1e-5, (layer, alpha, tokens)
            moved = max(moved, float((logits - replay.base).abs().max()))
    assert moved > 0.01, "steering must have an effect"
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in decoder_layers(model))


def test_layers_between_which_something_depends_on_their_outputs_are_not_replayed() -> None:
    crossed = architectures.model("idefics")
    ids = torch.tensor([[architectures.IMAGE, 20, 21, 22]])
    with pytest.raises(RuntimeError, match="what it adds between its layers depends on them"):
        Replay(crossed, architectures.inputs(crossed, ids), ReplayOptions())


def test_positions_before_the_first_steered_token_are_reused_in_causal_models_only(vlm: Any) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *EVEN)
    replay = Replay(model, batch, ReplayOptions(("image", "last")))
    positions = batch["input_ids"].shape[1]
    causal = not name.startswith("paligemma")
    assert replay.starts["last"] == (positions - 1 if causal else 0)
    # every other prompt here has some text before its image
    assert (replay.starts["image"] > 0) == causal


@pytest.mark.parametrize("name", ["paligemma2", "llava"])
def test_a_base_pass_that_exceeds_the_memory_bound_is_stored_on_disk(name: str, tmp_path: Path) -> None:
    model, processor = build(name)
    batch, delta = batch_of(name, processor, *PADDED), torch.ones(48)
    held, spilled = (Replay(model, batch, ReplayOptions(budget=b, folder=tmp_path)) for b in (None, 0))
    assert len(spilled.tensors.spilled) >= 4 and not spilled.tensors.held and not held.tensors.spilled
    assert torch.equal(held.steer(1, delta, "image"), spilled.steer(1, delta, "image"))
    assert not list(tmp_path.iterdir()), "a killed search leaves no files"


@pytest.mark.slow
def test_text_generated_after_a_replayed_prompt_is_that_of_the_model_with_hooks(vlm: Any) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *PADDED)
    config = SimpleNamespace(output_type="generate_until", generation_kwargs={"max_new_tokens": 6}, task="t")
    config.metric_list = [{"metric": "acc"}]
    scorer = GenerationScorer(SimpleNamespace(model=model), SimpleNamespace(config=config), [], batch)
    replay, hooked = Replay(model, batch, ReplayOptions(generates=True)), HookedBatch(model, batch)
    base = model.generate(**batch, **scorer.settings)[:, batch["input_ids"].shape[1] :].tolist()
    assert scorer._unsteered(replay).answers.tolist() == base
    changed = 0
    for layer in (0, 2):
        for tokens in ("image", "text", "both"):
            delta = 3 * torch.randn(48, generator=torch.Generator().manual_seed(layer))
            assert scorer.agrees(replay, hooked, layer, delta, tokens)
            changed += scorer.generate(hooked, layer, delta[None], [tokens])[0].tolist() != base
        deltas, targets = torch.stack((delta, -delta, delta)), ["image", "text", "both"]
        replayed, expected = (
            [
                [scorer._writer.until_end(row) for row in ids.tolist()]
                for ids in scorer.generate(source, layer, deltas, targets)
            ]
            for source in (replay, hooked)
        )
        assert replayed == expected
    assert changed


def test_a_slope_equals_the_effect_of_a_small_alpha_on_the_margin(vlm: Any) -> None:
    name, model, processor = vlm
    batch, v = batch_of(name, processor, *PADDED), vectors()
    lm = SimpleNamespace(first_token=lambda word: {"a": 20, "b": 30}[word])
    questions = [SimpleNamespace(doc_id=i, answers=("a", "b"), right=i) for i in range(2)]
    letters = LetterScorer(lm, questions)  # type: ignore[arg-type]
    margin, gradients = gradients_of_margin(model, batch, letters)
    replay = Replay(model, batch)
    for layer in (0, 3):
        direction, small = torch.from_numpy(v[layer]), 1e-3
        slope = ((gradients[layer] @ direction) * replay.masks["both"]).sum(1)
        ends = [letters.margin(replay.steer(layer, sign * small * direction, "both")) for sign in (1, -1)]
        assert torch.allclose((ends[0] - ends[1]) / (2 * small), slope, atol=0.1, rtol=0.1)
    assert torch.allclose(letters.margin(replay.base), margin, atol=1e-5)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow
def test_the_check_accepts_correct_replays_in_bfloat16_on_every_architecture(vlm: Any) -> None:
    name, trained, processor = vlm
    model = copy.deepcopy(trained).to(torch.bfloat16)
    batch = batch_of(name, processor, *PADDED)
    batch = {key: x.to(torch.bfloat16) if x.is_floating_point() else x for key, x in batch.items()}
    config = SimpleNamespace(output_type="generate_until", generation_kwargs={"max_new_tokens": 3}, task="t")
    config.metric_list = [{"metric": "acc"}]
    texts = GenerationScorer(SimpleNamespace(model=model), SimpleNamespace(config=config), [], batch)
    v, hooked = vectors(), HookedBatch(model, batch)
    for generates in (False, True):
        replay = Replay(model, batch, ReplayOptions(("image", "text", "both", "last"), generates=generates))
        agrees = texts.agrees if generates else LetterScorer.agrees
        for layer, alpha, tokens in ((0, 0.02, "image"), (0, 0.7, "text"), (2, 0.1, "both"), (2, 0.7, "last")):
            delta = torch.from_numpy(v[layer].copy()) * alpha
            assert agrees(replay, hooked, layer, delta, tokens), (generates, layer, alpha, tokens)
