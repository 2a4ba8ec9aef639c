"""The check of replays in every dtype: other rounding passes, a planted fault does not."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lmms_steer.harness.steered import SteeredPaliGemma
from lmms_steer.replay.agreement import agrees, next_logits
from lmms_steer.replay.engine import Replay
from lmms_steer.replay.hooked import HookedBatch
from lmms_steer.replay.rounding import noise_ratio, random_rounding
from lmms_steer.replay.setup import ReplayOptions
from lmms_steer.search.generation_scorer import GenerationScorer
from lmms_steer.tiny_world.question_sets import load_question_set
from lmms_steer.vectors import store
from lmms_steer.vectors.steering_vectors import SteeringVectors
from tests.helpers.checkpoints import build
from tests.helpers.models import batch_of, vectors


class Batch:
    """A model with a batch of padded questions, and directions for its layers."""

    def __init__(self, model: Any, inputs: dict[str, Any], directions: SteeringVectors, new_tokens: int) -> None:
        config = SimpleNamespace(
            output_type="generate_until", generation_kwargs={"max_new_tokens": new_tokens}, task="t",
            metric_list=[{"metric": "acc"}],
        )  # fmt: skip
        self.model, self.inputs, self.directions = model, inputs, directions
        self.scorer = GenerationScorer(SimpleNamespace(model=model), SimpleNamespace(config=config), [], inputs)
        self.causal = "token_type_ids" not in inputs
        self.hooked = HookedBatch(model, inputs)

    def delta(self, layer: int, alpha: float = 0.25) -> Tensor:
        return torch.from_numpy(self.directions[layer].copy()) * alpha

    def replay(self, generates: bool, targets: tuple[str, ...] = ("image", "text")) -> Replay:
        return Replay(self.model, self.inputs, ReplayOptions(targets, generates=generates))

    def agrees(self, replay: Replay, layer: int, tokens: str) -> bool:
        cell = layer, self.delta(layer), tokens
        if replay.generates:
            return self.scorer.agrees(replay, self.hooked, *cell)
        return agrees(replay, self.hooked, *cell, next_logits)


def trained(dtype: torch.dtype) -> Batch:
    """The trained checkpoint that ships."""
    lm = SteeredPaliGemma(pretrained="tiny-paligemma2", dtype=str(dtype).removeprefix("torch."))
    rows = load_question_set("spatial", "select")[:3]
    inputs = lm.model_inputs([row["question"] for row in rows], [[row["image"]] for row in rows])
    return Batch(lm.model, inputs, SteeringVectors.load(store.find("spatial", "tiny-gemma2").path), 3)


def causal(dtype: torch.dtype) -> Batch:
    """A causal model whose layers matter: its random weights are larger than at the start of a training."""
    model, processor = build("llava")
    with torch.no_grad():
        for parameter in model.get_decoder().layers.parameters():
            parameter *= 6 if parameter.dim() == 2 else 1
        for layer in model.get_decoder().layers:
            # attention that depends on positions, as a trained one does
            layer.self_attn.q_proj.weight *= 2
            layer.self_attn.k_proj.weight *= 2
    batch = batch_of("llava", processor, "where is the cat ?", "how many cups are on the table ?")
    batch = {key: x.to(dtype) if x.is_floating_point() else x for key, x in batch.items()}
    return Batch(model.to(dtype), batch, vectors(), 4)


MADE = {"trained": (trained, torch.bfloat16), "causal": (causal, torch.bfloat16), "float32": (causal, torch.float32)}


@pytest.fixture(scope="module", params=MADE)
def batch(request: pytest.FixtureRequest) -> Batch:
    make, dtype = MADE[request.param]
    return make(dtype)


@contextmanager
def kernels_by_rows() -> Iterator[None]:
    """Sum matrix products in parts whose number depends on the number of rows, and round each part, as GPUs may do."""
    true = F.linear

    def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        count = rows.numel() // rows.shape[-1]
        size = -(-rows.shape[-1] // (4 if count < 32 else 3 if count < 128 else 2))
        pairs = zip(rows.float().split(size, -1), weight.float().split(size, -1), strict=True)
        total = sum((a @ b.T).to(rows.dtype).float() for a, b in pairs) + (0 if bias is None else bias.float())
        return Tensor.to(total, rows.dtype)  # type: ignore[arg-type]

    F.linear = linear  # type: ignore[assignment]
    try:
        yield
    finally:
        F.linear = true


@pytest.mark.slow
@pytest.mark.parametrize("generates", [True, False], ids=["texts", "logits"])
def test_a_replay_on_other_kernels_is_accepted(batch: Batch, generates: bool) -> None:
    with kernels_by_rows():
        replay = batch.replay(generates, ("image", "text", "last"))
        assert not batch.causal or replay.starts["last"] > 0, "keys and values are still reused"
        unsteered = batch.hooked.base
        assert not torch.equal(replay.steer(0, 0 * batch.delta(0), "text"), unsteered), "the kernels round differently"
        for layer, tokens in ((0, "text"), (2, "image"), (1, "last")):
            assert batch.agrees(replay, layer, tokens), (layer, tokens)


def one_layer_wrong(replay: Replay) -> None:
    """The last layer has the weights of the one before."""
    layers = [*replay.recorded.layers[:-1], copy.deepcopy(replay.recorded.layers[-1])]
    layers[-1].load_state_dict(layers[-2].state_dict())
    replay.recorded.layers = layers  # type: ignore[assignment]


def steered_positions_off_by_one(replay: Replay) -> None:
    replay.masks = {tokens: mask.roll(1, 1) for tokens, mask in replay.masks.items()}


def rotary_positions_off_by_one(replay: Replay) -> None:
    """The prompt's positions but the last one are one too small, as if a padded row were not."""
    for call in replay.recorded._calls:
        call["position_embeddings"] = tuple(
            torch.cat((x[..., 1:-1, :], x[..., -2:, :]), -2) for x in call["position_embeddings"]
        )


def attention_mask_wrong(replay: Replay) -> None:
    """The padding is seen."""
    for call in replay.recorded._calls:
        mask = call["attention_mask"]
        seen = torch.ones_like(mask, dtype=torch.bool).tril()
        additive = torch.where(seen, 0.0, torch.finfo(torch.bfloat16).min)
        call["attention_mask"] = seen if mask.dtype == torch.bool else additive.to(mask)


def no_steering(replay: Replay) -> None:
    true = replay.steered_output
    replay.steered_output = lambda layer, deltas, *rest: true(layer, 0 * deltas, *rest)  # type: ignore[method-assign]


FAULTS = (
    one_layer_wrong, steered_positions_off_by_one, rotary_positions_off_by_one,
    attention_mask_wrong, no_steering,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_refuted(batch: Batch, fault: Callable[[Replay], None]) -> None:
    for generates in (True, False):
        replay = batch.replay(generates)
        fault(replay)
        assert not batch.agrees(replay, 0, "image"), generates


def test_the_noise_ratio_compares_each_row_and_is_infinite_for_broken_logits() -> None:
    theirs = torch.zeros(2, 100)
    rounded = theirs + 0.1
    one_row_off = torch.stack((theirs[0], theirs[1] + 0.5))
    assert noise_ratio(theirs, theirs, rounded) == noise_ratio(theirs, theirs, theirs) == 0
    assert noise_ratio(one_row_off, theirs, rounded) == pytest.approx(5)
    assert noise_ratio(theirs + torch.nan, theirs, rounded) == noise_ratio(rounded, theirs, theirs) == torch.inf


def test_random_rounding_is_of_the_size_of_the_dtype_and_ends_with_its_context() -> None:
    for dtype, smallest, largest in ((torch.float32, 2**-24, 2**-18), (torch.bfloat16, 2**-9, 2**-4)):
        model, processor = build("llava")
        inputs = batch_of("llava", processor, "where is the cat ?")
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
        model.to(dtype)
        with torch.no_grad():
            before = model(**inputs).logits[:, -1].float()
            with random_rounding(model):
                rounded = model(**inputs).logits[:, -1].float()
            assert torch.equal(model(**inputs).logits[:, -1].float(), before)
        assert smallest < float((rounded - before).norm() / before.norm()) < largest
