"""The contracts of docs/architecture.md for hooks, on a random tiny model of each architecture."""

from typing import Any

import numpy as np
import pytest
import torch

from lmms_steer import SteeringError, SteeringSpec, UserError, steer
from lmms_steer.steering.calls import _calls, continuation
from tests.helpers.checkpoints import build
from tests.helpers.models import batch_of, record, vectors

TEXTS = ("where is the cat ?", "how many cups are on the table ?")


def spec(alpha: float = 3.0, layer: int = 1, tokens: str = "both", phase: str = "prefill") -> str:
    return f"vector=v,layer={layer},alpha={alpha},tokens={tokens},phase={phase}"


def image_positions(model: Any, ids: torch.Tensor) -> torch.Tensor:
    mask: torch.Tensor = ids == model.config.image_token_id
    return mask


def hook_counts(model: Any) -> list[int]:
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def forward(model: Any, batch: dict[str, Any], **more: Any) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(**batch, **more).logits
        return logits


@pytest.mark.parametrize("tokens", ["image", "text", "both"])
def test_the_layer_changes_by_alpha_v_at_the_masked_positions_and_nowhere_else(vlm: Any, tokens: str) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *TEXTS)
    v = vectors()
    before = record(model, lambda: forward(model, batch))
    with steer(model, spec(0.7, 1, tokens), {"v": v}):
        after = record(model, lambda: forward(model, batch))
    image = image_positions(model, batch["input_ids"])
    real = batch["attention_mask"].bool()
    mask = {"image": image, "text": real & ~image, "both": real}[tokens]
    assert mask.any() and not mask.all()
    assert torch.equal(before[0], after[0])
    assert torch.equal(after[1][~mask], before[1][~mask])
    expected = torch.from_numpy(v[1]) * 0.7
    assert torch.equal(after[1][mask], before[1][mask] + expected)
    assert not torch.equal(after[2], before[2])


def test_alpha_zero_and_an_empty_spec_are_the_unsteered_model_to_the_bit(vlm: Any) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *TEXTS)
    before = forward(model, batch)
    counts = hook_counts(model)
    with steer(model, spec(0.0), {"v": vectors()}):
        assert hook_counts(model) == counts
        assert torch.equal(forward(model, batch), before)
    with steer(model, SteeringSpec()):
        assert torch.equal(forward(model, batch), before)


def test_leaving_the_block_removes_the_hooks_even_after_an_exception(vlm: Any) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *TEXTS)
    before, counts = forward(model, batch), hook_counts(model)
    with pytest.raises(KeyError), steer(model, spec(), {"v": vectors()}):
        assert not torch.equal(forward(model, batch), before)
        raise KeyError
    assert hook_counts(model) == counts
    assert torch.equal(forward(model, batch), before)


def test_an_interrupted_forward_leaves_no_call_behind() -> None:
    model, processor = build("paligemma2")
    batch = batch_of("paligemma2", processor, *TEXTS)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    stopping = model.get_decoder().layers[2].register_forward_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt), steer(model, spec(), {"v": vectors()}):
            forward(model, batch)
    finally:
        stopping.remove()
    assert not _calls.get()


def test_a_padded_batch_gives_the_logits_of_batches_of_one(vlm: Any) -> None:
    name, model, processor = vlm
    with steer(model, spec(), {"v": vectors()}):
        together = forward(model, batch_of(name, processor, *TEXTS))[:, -1]
        # the second text is the longer one: alone it needs no padding; the first is the one that was padded
        first = batch_of(name, processor, TEXTS[0])
        alone = forward(model, first)[:, -1]
    assert (together[0] - alone[0]).abs().max() < 1e-4


@pytest.mark.parametrize("phase", ["prefill", "all"])
def test_generated_tokens_are_steered_only_in_phase_all(vlm: Any, phase: str) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *TEXTS)
    v = vectors()
    steps: list[torch.Tensor] = []
    layers = model.get_decoder().layers

    def before_hook(m: Any, a: Any, o: Any) -> None:
        steps.append(o.clone())

    with steer(model, spec(0.5, 1, "text", phase), {"v": v}):
        # one before and one after the steering hook
        handles = [layers[1].register_forward_hook(before_hook, prepend=prepend) for prepend in (True, False)]
        try:
            model.generate(**batch, max_new_tokens=3, min_new_tokens=3, do_sample=False)
        finally:
            for handle in handles:
                handle.remove()
    deltas = [after - before for before, after in zip(steps[::2], steps[1::2], strict=True)]
    assert deltas[0].shape[1] > 1 and deltas[0].abs().max() > 0
    for delta in deltas[1:]:
        assert delta.shape[1] == 1
        assert (delta.abs().max() > 0) == (phase == "all")


@pytest.mark.parametrize("phase", ["prefill", "all"])
def test_generation_is_the_same_with_and_without_a_cache(causal_vlm: Any, phase: str) -> None:
    name, model, processor = causal_vlm
    batch = batch_of(name, processor, *TEXTS)
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    plain = [model.generate(**batch, **settings, use_cache=cache) for cache in (True, False)]
    assert torch.equal(*plain)
    with steer(model, spec(2.0, 1, "text", phase), {"v": vectors(scale=0.2)}):
        steered = [model.generate(**batch, **settings, use_cache=cache) for cache in (True, False)]
    assert torch.equal(*steered)


def test_beams_and_several_sequences_are_steered_like_greedy(vlm: Any) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *TEXTS)
    with steer(model, spec(0.5), {"v": vectors()}):
        seen = record(model, lambda: model.generate(**batch, max_new_tokens=1, num_beams=3, do_sample=False))
        greedy = record(model, lambda: model.generate(**batch, max_new_tokens=1, do_sample=False))
    rows = seen[1].shape[0] // greedy[1].shape[0]
    assert (seen[1] - greedy[1].repeat_interleave(rows, 0)).abs().max() < 1e-4


def test_a_scored_answer_is_not_part_of_the_prompt(vlm: Any) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *TEXTS)
    v = vectors()
    before = record(model, lambda: forward(model, batch))
    with steer(model, spec(1.0, 1, "text"), {"v": v}), continuation(torch.tensor([1, 2])):
        after = record(model, lambda: forward(model, batch))
    changed = (after[1] != before[1]).any(-1)
    assert changed[0, -2] and not changed[0, -1]
    assert changed[1, -3] and not changed[1, -2:].any()


def test_lengths_of_a_continuation_may_be_any_whole_numbers(vlm: Any) -> None:
    name, model, processor = vlm
    batch, v = batch_of(name, processor, *TEXTS), vectors()

    def steered(lengths: Any) -> torch.Tensor:
        with steer(model, spec(1.0, 1, "text"), {"v": v}), continuation(lengths):
            return record(model, lambda: forward(model, batch))[1]

    for lengths in ([2, 2], np.int64(2), torch.tensor(2), np.array([2, 2])):
        assert torch.equal(steered(lengths), steered(2))
    assert torch.equal(steered(torch.tensor(0)), steered(0))
    for wrong in (2.0, True, "2", -1, [1.5, 2], torch.tensor([True, False]), None):
        with pytest.raises(SteeringError, match="expected how many positions at the end are generated"):
            steered(wrong)
    with pytest.raises(SteeringError, match="lengths for 3 rows, but the batch has 2"):
        steered([1, 1, 1])


def test_a_continuation_ends_where_padding_begins(vlm: Any) -> None:
    name, model, processor = vlm
    batch, v = batch_of(name, processor, *TEXTS), vectors()
    ids, mask = batch["input_ids"].clone(), torch.ones_like(batch["input_ids"])
    positions = ids.shape[1]
    mask[0, positions - 2 :] = 0
    padded = {**batch, "input_ids": ids, "attention_mask": mask}
    plain = record(model, lambda: forward(model, padded))[1]
    with steer(model, "vector=v,layer=1,alpha=1,tokens=last,phase=all", {"v": v}), continuation([1, 2]):
        steered = record(model, lambda: forward(model, padded))[1]
    changed = ((steered - plain).norm(dim=-1) > 1e-3) & (mask == 1)
    # the last token of each prompt, and the one and the two of its answer
    expected = [list(range(positions - 4, positions - 2)), list(range(positions - 3, positions))]
    assert [row.nonzero().flatten().tolist() for row in changed] == expected
    refused = f"{positions - 1} positions at the end of a row are generated, but its forward call has {positions - 2}"
    with (
        pytest.raises(SteeringError, match=refused),
        steer(model, spec(1.0, 1, "text"), {"v": v}),
        continuation(positions - 1),
    ):
        forward(model, padded)


def test_several_interventions_add_up(vlm: Any) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *TEXTS)
    two = {"a": vectors(seed=1), "b": vectors(seed=2)}
    line = "; ".join(
        (
            spec(1, 1).replace("=v", "=a"),
            spec(2, 1, "image").replace("=v", "=b"),
            spec(1, 2, "text").replace("=v", "=b"),
        )
    )
    before = record(model, lambda: forward(model, batch))
    with steer(model, line, two):
        after = record(model, lambda: forward(model, batch))
    image = image_positions(model, batch["input_ids"])
    expected = before[1][image] + torch.from_numpy(two["a"][1]) + 2 * torch.from_numpy(two["b"][1])
    assert (after[1][image] - expected).abs().max() < 1e-5


def test_half_precision_adds_the_vector_scaled_in_full_precision(vlm: Any) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *TEXTS)
    v = vectors(scale=1e-3)
    half = {k: t.bfloat16() if torch.is_floating_point(t) else t for k, t in batch.items()}
    model.bfloat16()
    try:
        before = record(model, lambda: forward(model, half))
        with steer(model, spec(300.0, 1, "image"), {"v": v}):
            after = record(model, lambda: forward(model, half))
    finally:
        model.float()
    image = image_positions(model, batch["input_ids"])
    assert torch.equal(after[1][image], before[1][image] + (torch.from_numpy(v[1]) * 300.0).bfloat16())


def test_forward_calls_that_cannot_be_steered_are_refused(vlm: Any) -> None:
    name, model, processor = vlm
    batch = batch_of(name, processor, *TEXTS)
    with steer(model, spec(), {"v": vectors()}):
        with pytest.raises(RuntimeError, match="input_ids"):
            model(inputs_embeds=model.get_input_embeddings()(batch["input_ids"]))
        with pytest.raises(RuntimeError, match="call the model"):
            model.get_decoder()(input_ids=torch.tensor([[3, 4]]))


def test_a_wrong_width_layer_or_vector_is_refused_by_name_and_number(vlm: Any) -> None:
    _, model, _ = vlm
    counts = hook_counts(model)
    for line, given, expected in (
        (spec(), vectors(width=64), "64.*48"),
        (spec(layer=4), vectors(layers=8), "layer=4.*0-3"),
        (spec(layer=3), vectors(layers=2), "layer=3.*0-1"),
    ):
        with pytest.raises(UserError, match=expected), steer(model, line, {"v": given}):
            pass
    assert hook_counts(model) == counts
