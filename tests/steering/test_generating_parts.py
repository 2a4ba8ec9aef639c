"""Models whose `generate` runs the language model inside by itself, and those that mark images with a mask.

The reference is written here: one pass of the whole model without a cache, or a loop of such passes, with a hook at
positions counted here. Every row has its own random picture.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import CONFIG_MAPPING

from lmms_steer import SteeringError, UserError, continuation, steer
from lmms_steer.steering.positions import ids_of
from lmms_steer.steering.recording import residual_norms
from lmms_steer.steering.support import check_config
from tests.helpers.architectures import IMAGE, LAYERS, WIDTH, inputs, model
from tests.helpers.models import record, vectors
from tests.support_matrix import layers_of

LAYER, ALPHA, NEW = 1, 2.0, 4
V = vectors(LAYERS, WIDTH, scale=0.5)
IDS = torch.tensor([[50, 51, IMAGE, IMAGE, IMAGE, 60, 61, 62], [70, 71, IMAGE, IMAGE, IMAGE, 72, 73, 74]])
PADDED = torch.tensor([[50, 51, IMAGE, IMAGE, IMAGE, 60, 61, 62], [0, 0, IMAGE, IMAGE, IMAGE, 72, 73, 74]])
OPTIONS: dict[str, Any] = {
    "max_new_tokens": NEW,
    "min_new_tokens": NEW,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "suppress_tokens": [0, 1, IMAGE],
    "return_dict_in_generate": True,
    "output_logits": True,
}


KINDS = ("blip-2", "instructblip", "kosmos-2", "kosmos-2.5")
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True},
    "beams": {"num_beams": 3, "num_return_sequences": 3, "output_scores": True, "length_penalty": 0.0},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "no cache": {"use_cache": False},
    "static": {"cache_implementation": "static"},
}


@lru_cache
def made(kind: str) -> Any:
    """A random model whose encoders pass on what a picture shows."""
    made = model(kind)
    draw = torch.Generator().manual_seed(1)
    for name, weights in made.named_parameters():
        if not name.startswith(("language_model", "text_model")):
            weights.data.copy_(0.1 * torch.randn(weights.shape, generator=draw))
    return made


def batch_of(made: Any, ids: Tensor, copies: int = 1) -> dict[str, Tensor]:
    """The rows as the model takes them, each `copies` times with its picture."""
    batch = inputs(made, ids)
    draw = torch.Generator().manual_seed(2)
    for name in ("pixel_values", "flattened_patches"):
        if name in batch:
            rows = torch.randn(len(ids) // copies, *batch[name].shape[1:], generator=draw).repeat_interleave(copies, 0)
            start = 2 if name == "flattened_patches" else 0
            batch[name] = torch.cat([batch[name][..., :start], rows[..., start:]], -1)
    return batch


def positions(ids: Tensor, tokens: str, phase: str, end: int) -> Tensor:
    chosen = torch.zeros_like(ids, dtype=torch.bool)
    for row in range(len(ids)):
        real = [c for c in range(end) if ids[row, c] != 0]
        image = [c for c in real if ids[row, c] == IMAGE]
        text = [c for c in real if ids[row, c] != IMAGE]
        prompt = {"image": image, "text": text, "both": real, "last": real[-1:]}[tokens]
        after = [] if tokens == "image" else list(range(end, ids.shape[1]))
        for column in (prompt if phase != "decode" else []) + (after if phase != "prefill" else []):
            chosen[row, column] = True
    return chosen


@contextmanager
def reference(made: Any, chosen: Tensor | None) -> Iterator[None]:
    """Adds alpha v at the chosen positions; with None, at the image positions of `PADDED` in the prompt's pass."""
    v = ALPHA * torch.from_numpy(V[LAYER]).float()

    def add(module: Any, args: Any, output: Any) -> Any:  # noqa: ARG001
        hidden = output[0] if isinstance(output, tuple) else output
        if chosen is None and hidden.shape[1] == 1:
            return None
        where = PADDED == IMAGE if chosen is None else chosen
        changed = torch.where(where.unsqueeze(-1), hidden + v, hidden)
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = layers_of(made)[LAYER].register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def logits(made: Any, ids: Tensor, tokens: str, phase: str = "prefill", end: int | None = None, copies: int = 1) -> Any:
    with reference(made, positions(ids, tokens, phase, end or ids.shape[1])):
        return made(**batch_of(made, ids, copies), use_cache=False).logits.float()


def line(tokens: str, phase: str = "prefill", alpha: float = ALPHA) -> str:
    return f"vector=v,layer={LAYER},alpha={alpha},tokens={tokens},phase={phase}"


def close(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().max() < 5e-4 * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("kind", ["blip-2", "kosmos-2"])
def test_pictures_are_steered_as_in_a_loop_without_a_cache(kind: str) -> None:
    model = made(kind)
    ids, expected = IDS, []
    for _ in range(NEW):
        last = logits(model, ids, "image", end=IDS.shape[1])[:, -1]
        expected.append(last)
        allowed = last.index_fill(-1, torch.tensor([0, 1, IMAGE]), float("-inf"))
        ids = torch.cat([ids, allowed.argmax(-1, keepdim=True)], 1)
    batch = batch_of(model, IDS)
    with steer(model, line("image"), {"v": V}):
        output = model.generate(**batch, **OPTIONS)
    assert torch.equal(output.sequences[:, IDS.shape[1] :], ids[:, IDS.shape[1] :])
    assert close(torch.stack(output.logits, 1), torch.stack(expected, 1))
    # the pictures and the steering both count
    other = model.generate(**{**batch, "pixel_values": batch["pixel_values"].flip(0)}, **OPTIONS)
    unsteered = model.generate(**batch, **OPTIONS)
    assert not close(other.logits[0], unsteered.logits[0]) and not close(unsteered.logits[0], output.logits[0])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "way"), [way for way in product(KINDS, WAYS) if way != ("kosmos-2", "static")])
@pytest.mark.parametrize("target", [("image", "prefill"), ("text", "all"), ("last", "prefill"), ("both", "decode")])
def test_every_way_of_generating_is_steered(kind: str, way: str, target: tuple[str, str]) -> None:
    (tokens, phase), model, more = target, made(kind), WAYS[way]
    copies = more.get("num_return_sequences", 1)
    prompts = PADDED if "blip" in kind else IDS
    torch.manual_seed(0)
    with steer(model, line(tokens, phase), {"v": V}):
        output = model.generate(**batch_of(model, prompts), **OPTIONS, **more)
    end = prompts.shape[1]
    whole = torch.cat([prompts.repeat_interleave(copies, 0), output.sequences[:, end:]], 1)
    expected = logits(model, whole, tokens, phase, end, copies)[:, end - 1 : -1]
    if way == "beams":
        chosen = expected.log_softmax(-1).gather(-1, whole[:, end:, None]).sum((1, 2))
        assert (chosen - output.sequences_scores).abs().max() < 2e-3
    else:
        assert close(torch.stack(output.logits, 1), expected)


@pytest.mark.parametrize("kind", ["kosmos-2", "kosmos-2.5"])
def test_padded_prompts_are_steered_in_models_that_count_padding_with_a_cache(kind: str) -> None:
    """Their positions after a padded prompt differ with a cache, so the reference has one."""
    model = made(kind)
    batch = batch_of(model, PADDED)
    with reference(model, None):
        expected = model.generate(**batch, **OPTIONS)
    with steer(model, line("image"), {"v": V}):
        found = model.generate(**batch, **OPTIONS)
    assert torch.equal(found.sequences, expected.sequences)
    assert close(torch.stack(found.logits, 1), torch.stack(expected.logits, 1))


@pytest.mark.parametrize("kind", ["blip-2", "kosmos-2", "kosmos-2.5"])
def test_alpha_0_and_the_end_of_the_block_leave_the_model_as_it_was(kind: str) -> None:
    model, batch = made(kind), batch_of(made(kind), IDS)
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    before = model.generate(**batch, **OPTIONS)
    with steer(model, line("both", alpha=0), {"v": V}):
        assert torch.equal(model.generate(**batch, **OPTIONS).logits[0], before.logits[0])
    with steer(model, line("both"), {"v": V}):
        assert not close(model.generate(**batch, **OPTIONS).logits[0], before.logits[0])
    after = model.generate(**batch, **OPTIONS)
    assert torch.equal(torch.stack(after.logits), torch.stack(before.logits))
    assert [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()] == hooks


def test_the_mask_and_not_the_ids_says_where_an_image_is() -> None:
    """Ids under the mask are any, and the same ids elsewhere are text."""
    model = made("kosmos-2.5")
    ids = torch.tensor([[50, 20, 21, 22, 60, 20, 21, 22]])
    mask = torch.tensor([[-1, 1, 1, 1, -1, 0, 0, 0]])
    patches = batch_of(model, IDS[:1])["flattened_patches"]

    def states(**marks: Any) -> Tensor:
        return record(_with_layers(model), lambda: model(input_ids=ids, **marks))[LAYER]

    for tokens, marked, unmarked in (("image", [1, 2, 3], []), ("text", [0, 4, 5, 6, 7], list(range(8)))):
        for marks, expected in (
            ({"image_embeds_position_mask": mask, "flattened_patches": patches}, marked),
            ({}, unmarked),
        ):
            before = states(**marks)
            with steer(model, line(tokens), {"v": V}):
                assert (states(**marks) != before).any(-1)[0].nonzero().flatten().tolist() == expected


def _with_layers(made: Any) -> Any:
    """What `record` reads the layers of."""
    return type("Layers", (), {"get_decoder": lambda self: type("", (), {"layers": layers_of(made)})})()


def test_a_mask_of_another_length_is_refused() -> None:
    model = made("kosmos-2.5")
    with steer(model, line("text"), {"v": V}), pytest.raises(SteeringError, match="does not cover the"):
        model(input_ids=IDS[:1], image_embeds_position_mask=torch.zeros(1, 3, dtype=torch.long))
    whole = torch.tensor([[0, 1, 0, 1]])
    assert ids_of({"input_ids": torch.tensor([[5, 6]]), "image_embeds_position_mask": whole}, 2).tolist() == [[5, -200]]


@pytest.mark.parametrize("kind", ["blip-2", "instructblip", "kosmos-2"])
def test_arguments_are_read_by_place_too(kind: str) -> None:
    model, batch = made(kind), batch_of(made(kind), PADDED)
    order = {
        "blip-2": ("pixel_values", "input_ids", "attention_mask"),
        "instructblip": ("pixel_values", "qformer_input_ids", None, "input_ids", "attention_mask"),
        "kosmos-2": ("pixel_values", "input_ids", "image_embeds_position_mask", "attention_mask"),
    }[kind]
    with torch.no_grad(), steer(model, line("image"), {"v": V}):
        found = model(*(None if name is None else batch[name] for name in order), use_cache=False).logits
    assert close(found[PADDED != 0], logits(model, PADDED, "image")[PADDED != 0])


def test_a_captioner_without_a_prompt_is_steered_at_the_prompt_that_it_writes_itself() -> None:
    model = made("blip-2")
    pixels = batch_of(model, IDS)["pixel_values"]
    with steer(model, line("image"), {"v": V}):
        alone = model.generate(pixel_values=pixels, **OPTIONS)
        written = torch.tensor([[IMAGE] * 3 + [model.config.text_config.bos_token_id]]).repeat(2, 1)
        same = model.generate(pixel_values=pixels, input_ids=written, **OPTIONS)
    assert torch.equal(torch.stack(alone.logits), torch.stack(same.logits))
    assert not close(alone.logits[0], model.generate(pixel_values=pixels, **OPTIONS).logits[0])


def test_embeddings_without_ids_are_refused() -> None:
    model, batch = made("blip-2"), batch_of(made("blip-2"), IDS)
    embeds = model.get_input_embeddings()(batch.pop("input_ids"))
    with steer(model, line("text"), {"v": V}):
        with pytest.raises(SteeringError, match="pass input_ids"):
            model.generate(**batch, inputs_embeds=embeds, **OPTIONS)
        with pytest.raises(SteeringError, match="the language model runs on 8 embeddings .* the prompt ends at 5"):
            model.language_model.generate(input_ids=IDS[:, :5], inputs_embeds=embeds, **OPTIONS)
        with pytest.raises(SteeringError, match="steering needs input_ids"):
            model.language_model(inputs_embeds=embeds)
        with pytest.raises(SteeringError, match="guidance_scale"):
            model.generate(**batch_of(model, IDS), guidance_scale=2.0, **OPTIONS)


def test_the_language_model_alone_is_steered_on_its_own_prompt() -> None:
    model = made("blip-2")
    ids = torch.tensor([[50, 51, 60, 61]])
    with torch.no_grad(), reference(model, positions(ids, "text", "prefill", 4)):
        expected = model.language_model(ids).logits
    with torch.no_grad(), steer(model, line("text"), {"v": V}):
        assert close(model.language_model(ids).logits, expected)
        with pytest.raises(SteeringError, match="a steered layer ran outside"):
            model.language_model.model(input_ids=ids)


@pytest.mark.parametrize("kind", ["blip-2", "kosmos-2"])
def test_a_gate_decides_about_the_prompt_of_the_language_model(kind: str) -> None:
    model, batch = made(kind), batch_of(made(kind), IDS)
    unsteered = model.generate(**batch, **OPTIONS)
    gated = f"{line('both', 'all')},gate=cosine,gate_layer=0,read=prompt"
    scores = {}
    for threshold in (-1.0, 1.0):
        with steer(model, f"{gated},threshold={threshold}", {"v": V}):
            scores[threshold] = model.generate(**batch, **OPTIONS, num_beams=2)
    with steer(model, line("both", "all"), {"v": V}):
        always = model.generate(**batch, **OPTIONS, num_beams=2)
    assert torch.equal(scores[-1.0].sequences, always.sequences) and close(scores[-1.0].logits[0], always.logits[0])
    assert close(scores[1.0].logits[0][::2], unsteered.logits[0])


def test_a_scored_answer_is_not_steered() -> None:
    model = made("kosmos-2")
    with torch.no_grad(), steer(model, line("text"), {"v": V}), continuation(2):
        found = model(**batch_of(model, IDS), use_cache=False).logits
    assert close(found, logits(model, IDS, "text", end=IDS.shape[1] - 2))


@pytest.mark.parametrize("kind", ["blip-2", "kosmos-2"])
def test_norms_and_activations_are_read_at_the_images(kind: str) -> None:
    model, batch = made(kind), batch_of(made(kind), IDS)
    with torch.no_grad():
        states = record(_with_layers(model), lambda: model(**batch, use_cache=False))
    image = IDS == IMAGE
    norms = residual_norms(model, [batch])
    for layer in range(LAYERS):
        own = states[layer].norm(dim=-1)
        assert norms[layer]["image"] == pytest.approx(float(own[image].mean()), rel=1e-4)
        assert norms[layer]["text"] == pytest.approx(float(own[~image].mean()), rel=1e-4)


@pytest.mark.parametrize("kind", ["blip-2", "instructblip", "instructblipvideo"])
def test_a_language_model_that_is_an_encoder_decoder_is_refused_by_the_config(kind: str) -> None:
    config = CONFIG_MAPPING[kind](text_config={"model_type": "t5"})
    with pytest.raises(UserError, match=f"^cannot steer it \\({kind}\\): it is an encoder-decoder"):
        check_config(config, "it")


def test_a_config_without_the_image_token_cannot_tell_text_from_images() -> None:
    model = made("blip-2")
    model.config.image_token_index = None
    try:
        with pytest.raises(UserError, match="does not say which tokens are images, choose tokens=both"):
            steer(model, line("text"), {"v": V}).__enter__()
        with pytest.raises(UserError, match="gamma_image=2,gamma_text=1: .* images, leave the gammas out"):
            steer(model, line("both") + ",gamma_image=2", {"v": V}).__enter__()
        with steer(model, line("both") + ",gamma_image=2,gamma_text=2", {"v": V}):
            pass
    finally:
        model.config.image_token_index = IMAGE


@pytest.mark.parametrize(
    ("kind", "tower"),
    [
        ("blip-2", "vision_model.encoder.layers.1"),
        ("kosmos-2", "vision_model.model.encoder.layers.1"),
        ("kosmos-2.5", "vision_model.encoder.layer.1"),
    ],
)
def test_the_vision_tower_is_steered_in_generate_too(kind: str, tower: str) -> None:
    model, batch = made(kind), batch_of(made(kind), IDS)
    v = ALPHA * torch.from_numpy(V[1]).float()
    handle = model.get_submodule(tower).register_forward_hook(
        lambda module, args, output: (output[0] + v, *output[1:]) if isinstance(output, tuple) else output + v  # noqa: ARG005
    )
    expected = model.generate(**batch, **OPTIONS)
    handle.remove()
    with steer(model, f"vector=v,layer=1,alpha={ALPHA},site=vision", {"v": V}):
        found = model.generate(**batch, **OPTIONS)
    assert close(torch.stack(found.logits, 1), torch.stack(expected.logits, 1))
    assert not close(found.logits[0], model.generate(**batch, **OPTIONS).logits[0])


def test_a_model_inside_of_peft_is_steered() -> None:
    import peft

    inner = model("blip-2")
    batch = batch_of(inner, PADDED)
    with steer(inner, line("image"), {"v": V}):
        expected = inner.generate(**batch, **OPTIONS)
    wrapped: Any = peft.get_peft_model(inner, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=True)).eval()
    with steer(wrapped, line("image"), {"v": V}):
        found = wrapped.generate(**batch, **OPTIONS)
        with torch.no_grad():
            scored = wrapped(**batch, use_cache=False).logits
    assert close(torch.stack(found.logits), torch.stack(expected.logits))
    assert close(scored[:, -1], expected.logits[0])
