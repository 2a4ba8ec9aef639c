"""Operations, token targets, phases and scales against their formulas, on a random tiny model of each architecture."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from lmms_steer import SteeringSpec, UserError, steer
from lmms_steer.steering.anatomy import note_norms
from lmms_steer.steering.facts import ModelFacts
from lmms_steer.steering.recording import residual_norms
from lmms_steer.steering.resolve import resolve
from tests.helpers.models import batch_of, record, vectors
from tests.steering.reference import active_parts
from tests.steering.test_hooks import TEXTS, forward, image_positions

V = vectors()
U = torch.from_numpy(V[1] / np.linalg.norm(V[1]))
LENGTH = float(np.linalg.norm(V[1]))


def line(**keys: Any) -> str:
    return ",".join(f"{k}={v}" for k, v in {"vector": "v", "layer": 1, "alpha": 0.5, "tokens": "both", **keys}.items())


def before_and_after(vlm: Any, **keys: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
    """Layer 1's output unsteered and steered, the positions that changed, and the batch."""
    name, model, processor = vlm
    batch = batch_of(name, processor, *TEXTS)
    before = record(model, lambda: forward(model, batch))[1]
    special = processor.tokenizer.all_special_ids
    with steer(model, line(**keys), {"v": V}, special_ids=special):
        after = record(model, lambda: forward(model, batch))[1]
    return before, after, (before != after).any(-1), batch


def formula(operation: str, h: Any) -> Any:
    along = (h @ U).unsqueeze(-1) * U
    if operation == "norm_preserving":
        moved = h + 0.5 * LENGTH * U
        return moved / moved.norm(dim=-1, keepdim=True) * h.norm(dim=-1, keepdim=True)
    if operation == "norm_preserving_weighted":
        norms = h.norm(dim=-1, keepdim=True)
        # the vector is negative here: the push points to -U
        weights = torch.tensor([[1 + max(0.0, float(row @ U / row.norm()))] for row in h])
        moved = h - 0.5 * LENGTH * weights * U
        return moved / moved.norm(dim=-1, keepdim=True) * norms
    if operation == "clamp":
        return h - along + 0.5 * LENGTH * U
    if operation == "ablate":
        return h - 0.5 * along
    norm = h.norm(dim=-1, keepdim=True)
    across = U - (h @ U).unsqueeze(-1) * h / norm**2
    return np.cos(0.5) * h + np.sin(0.5) * norm * across / across.norm(dim=-1, keepdim=True)


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["norm_preserving", "norm_preserving_weighted", "clamp", "ablate", "rotate"])
def test_an_operation_computes_its_formula(vlm: Any, operation: str) -> None:
    more = {"alpha": -0.5} if operation == "norm_preserving_weighted" else {}
    before, after, changed, batch = before_and_after(vlm, operation=operation, **more)
    real = batch["attention_mask"].bool()
    assert torch.equal(changed, real)
    assert (after[real] - formula(operation, before[real])).abs().max() < 1e-4
    if operation in ("norm_preserving", "norm_preserving_weighted", "rotate"):
        assert (after[real].norm(dim=-1) / before[real].norm(dim=-1) - 1).abs().max() < 1e-4
    _, _, none, _ = before_and_after(vlm, operation=operation, alpha=0)
    assert not none.any()


def test_tokens_last_is_the_last_position_of_each_prompt(vlm: Any) -> None:
    _, _, changed, _ = before_and_after(vlm, tokens="last")
    assert changed.sum(1).tolist() == [1, 1] and changed[:, -1].all()


def test_the_paper_s_masks_leave_out_special_tokens_and_the_last_other_one(vlm: Any) -> None:
    name, model, processor = vlm
    for tokens in ("text_paper", "both_paper"):
        _, _, changed, batch = before_and_after(vlm, tokens=tokens)
        ids, image = batch["input_ids"], image_positions(model, batch["input_ids"])
        for row in range(len(ids)):
            special = set(processor.tokenizer.all_special_ids)
            plain = [i for i, t in enumerate(ids[row].tolist()) if t not in special and not image[row, i]]
            expected = set(plain[:-1]) | (set(image[row].nonzero().flatten().tolist()) if "both" in tokens else set())
            assert set(changed[row].nonzero().flatten().tolist()) == expected


def test_the_gammas_scale_image_and_text_tokens_separately(vlm: Any) -> None:
    before, after, _, batch = before_and_after(vlm, gamma_image=2, gamma_text=-1)
    image = image_positions(vlm[1], batch["input_ids"])
    text = batch["attention_mask"].bool() & ~image
    v = torch.from_numpy(V[1])
    assert (after[image] - before[image] - v).abs().max() < 1e-5
    assert (after[text] - before[text] + 0.5 * v).abs().max() < 1e-5
    _, _, changed, _ = before_and_after(vlm, gamma_text=0)
    assert torch.equal(changed, image)


def test_alpha_can_be_in_units_of_the_unit_vector_or_of_the_residual_norm(vlm: Any) -> None:
    name, model, processor = vlm
    before, after, _, batch = before_and_after(vlm, scale="unit", tokens="image")
    image = image_positions(model, batch["input_ids"])
    assert (after[image] - before[image] - 0.5 * U).abs().max() < 1e-5
    facts = ModelFacts("m", 4, 48)
    resolved = resolve(SteeringSpec.parse(line(scale="relative", tokens="image")), facts, {"v": V})
    with pytest.raises(UserError, match="were not measured"), steer(model, resolved):
        pass
    norms = residual_norms(model, [batch])
    note_norms(model, norms)
    mean = float(before[image].norm(dim=-1).mean())
    assert norms[1]["image"] == pytest.approx(mean, rel=1e-4)
    with steer(model, replace(resolved, norms=norms)):
        relative = record(model, lambda: forward(model, batch))[1]
    assert (relative[image] - before[image] - 0.5 * mean * U).abs().max() < 1e-3
    assert replace(resolved, norms=norms).sha256 != resolved.sha256


def test_alpha_can_be_in_units_of_each_token_s_norm(vlm: Any) -> None:
    before, after, changed, batch = before_and_after(vlm, scale="token", gamma_text=2)
    real, image = batch["attention_mask"].bool(), image_positions(vlm[1], batch["input_ids"])
    alphas = torch.where(image, 0.5, 1.0).unsqueeze(-1)
    norms = before.norm(dim=-1, keepdim=True)
    assert torch.equal(changed, real)
    assert (after - before - alphas * norms * U)[real].abs().max() < 1e-4
    # the push of VTI and VISTA: |x| · norm(x / |x| + lambda · u)
    _, restored, _, _ = before_and_after(vlm, scale="token", operation="norm_preserving")
    expected = norms * torch.nn.functional.normalize(before / norms + 0.5 * U, dim=-1)
    assert (restored - expected)[real].abs().max() < 1e-4
    # with VISTA's weight: |x| · norm(x / |x| + lambda · (1 + max(0, cos(x, -u))) · u)
    _, weighted, _, _ = before_and_after(vlm, scale="token", operation="norm_preserving_weighted")
    away = 1 + torch.nn.functional.cosine_similarity(before, -U, dim=-1).clamp(min=0).unsqueeze(-1)
    expected = norms * torch.nn.functional.normalize(before / norms + away * 0.5 * U, dim=-1)
    assert (weighted - expected)[real].abs().max() < 1e-4 < (weighted - restored)[real].abs().max()
    _, clamped, _, _ = before_and_after(vlm, scale="token", operation="clamp")
    assert ((clamped @ U).unsqueeze(-1) - 0.5 * norms)[real].abs().max() < 1e-4
    _, _, none, _ = before_and_after(vlm, scale="token", alpha=0)
    assert not none.any()


def test_in_half_precision_a_token_s_norm_is_taken_in_float32() -> None:
    hidden = torch.full((1, 2, 48), 60000.0, dtype=torch.float16)
    resolved = resolve(SteeringSpec.parse(line(scale="token", alpha=1e-3)), ModelFacts("m", 4, 48), {"v": V})
    ((_, vector),) = active_parts(resolved)
    delta = vector.at_norms_of(hidden).delta
    assert torch.allclose(delta[0, 1], 1e-3 * 60000 * 48**0.5 * U, rtol=1e-3)


def test_a_relative_strength_uses_the_norm_of_the_given_tokens_whatever_the_gammas() -> None:
    norms = {1: {"image": 100.0, "text": 10.0, "both": 90.0, "last": 7.0}}
    for gamma, alpha, expected in ((1, 0.1, [9.0]), (1.001, 0.1, [9.009, 9.0]), (0, 0.1, [9.0]), (1.001, 0, [])):
        spec = SteeringSpec.parse(line(scale="relative", alpha=alpha, gamma_image=gamma))
        resolved = replace(resolve(spec, ModelFacts("m", 4, 48), {"v": V}), norms=norms)
        found = active_parts(resolved)
        assert [push.strength for _, push in found] == pytest.approx(expected)
        assert all(torch.allclose(push.delta, push.strength * U, atol=1e-5) for _, push in found)
    paper = replace(resolve(SteeringSpec.parse(line(scale="relative", tokens="text_paper")), ModelFacts("m", 4, 48),
                            {"v": V}), norms=norms)  # fmt: skip
    assert active_parts(paper)[0][1].strength == pytest.approx(5.0)


def test_a_scaled_vector_that_overflows_is_refused() -> None:
    resolved = resolve(SteeringSpec.parse(line(alpha="1e39")), ModelFacts("m", 4, 48), {"v": V})
    with pytest.raises(UserError, match=r"alpha=1e\+39: the scaled vector 'v' overflows float32"):
        active_parts(resolved)


def test_phase_decode_steers_generated_tokens_only(vlm: Any) -> None:
    name, model, processor = vlm
    _, _, changed, batch = before_and_after(vlm, phase="decode", tokens="text")
    assert not changed.any()
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "output_logits": True}
    plain = model.generate(**batch, **options, return_dict_in_generate=True).logits
    with steer(model, line(phase="decode", tokens="text", alpha=5), {"v": V}):
        steered = model.generate(**batch, **options, return_dict_in_generate=True).logits
    assert torch.equal(plain[0], steered[0]) and not torch.allclose(plain[1], steered[1])


def test_chunked_prefill_and_sampling_steer_the_same_positions(causal_vlm: Any) -> None:
    name, model, processor = causal_vlm
    batch = batch_of(name, processor, *TEXTS)
    layers, touched = len(model.get_decoder().layers), []
    for options in ({"do_sample": False}, {"do_sample": False, "prefill_chunk_size": 8}, {"do_sample": True}):
        run = partial(model.generate, **batch, max_new_tokens=3, min_new_tokens=3, **options)
        seen = []
        for spec in (line(tokens="text", alpha=0), line(tokens="text")):
            torch.manual_seed(0)
            with steer(model, spec, {"v": V}):
                seen.append(torch.cat(record(model, run)[1::layers], dim=1))
        prompt = batch["input_ids"].shape[1]
        touched.append((seen[0] != seen[1]).any(-1)[:, :prompt])
    image = image_positions(model, batch["input_ids"])
    expected = batch["attention_mask"].bool() & ~image
    for changed in touched:
        assert torch.equal(changed | image, expected | image) and changed[:, -1].all()
    assert torch.equal(touched[0], expected)


def test_image_tokens_in_a_text_model_are_refused() -> None:
    from transformers import AutoModelForCausalLM

    from lmms_steer.tiny_world.checkpoints import weights_dir

    model = AutoModelForCausalLM.from_pretrained(weights_dir("tiny-gemma2"))
    made = vectors(5, 96)
    refused = pytest.raises(UserError, match="has no image tokens, choose tokens=text")
    with refused, steer(model, line(tokens="image"), {"v": made}):
        pass
