"""`tokens=video` and `tokens=audio`: by what each architecture marks, compared with hooks and counts of our own."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING

from lmms_steer import SteeringError, UserError, continuation, steer
from lmms_steer.models.prompts import prompt_format_for
from lmms_steer.steering.anatomy import remember_norms
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.loaded_fit import check_in_decoder
from lmms_steer.steering.placeholders import placeholders
from tests.helpers.architectures import AUDIO, END, IMAGE, START, VIDEO, model
from tests.helpers.checkpoints import build
from tests.helpers.models import picture, record, vectors
from tests.media_matrix import ids_of, positions, row
from tests.support_matrix import ALPHA, LAYER, V, logits, spec


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "exact"),
    [
        ("qwen2_vl", ("video",)),
        ("glm4v", ("video",)),
        ("qwen2_audio", ("audio",)),
        ("qwen2_5_omni", ("video", "audio")),
    ],
)
def test_videos_and_audio_are_steered_as_a_reference_steers_them(architecture: str, exact: tuple[str, ...]) -> None:
    cells = row(architecture)
    assert [cells.get(column) for column in (*exact, "text", "generate", "batch")] == ["exact"] * (len(exact) + 3)


@pytest.mark.parametrize(("architecture", "frame"), [("llava_onevision", "<video>"), ("qwen3_vl", "<|video_pad|>")])
def test_the_frames_that_a_processor_writes_are_what_is_steered(architecture: str, frame: str) -> None:
    made, processor = build(architecture)
    frames = [picture(seed) for seed in range(4)]
    batch = dict(prompt_format_for(processor)(processor, ["where is the cat ?"], [[picture(9), frames]]))
    read = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    video = [place for place, token in enumerate(read) if token == frame]
    image = [place for place, token in enumerate(read) if "image" in token]
    assert len(video) > 4 and image
    for tokens, expected in (
        ("video", video),
        ("image", image),
        ("text", [place for place in range(len(read)) if place not in video + image]),
    ):
        before = record(made, lambda: made(**batch))[1]
        with steer(made, vectors(), layer=1, alpha=1, tokens=tokens):
            after = record(made, lambda: made(**batch))[1]
        assert (before != after).any(-1)[0].nonzero().flatten().tolist() == expected


def test_a_video_on_image_tokens_is_told_by_the_tokens_around_it_or_refused() -> None:
    made = model("glm4v")
    piece = ids_of("video", "glm4v")[:1, 4:]
    with steer(made, spec("video"), {"v": V}):
        whole = made(input_ids=ids_of("video", "glm4v")[:1, :4], use_cache=True)
        with continuation(0), pytest.raises(SteeringError, match="tells videos from images by what stands before them"):
            made(input_ids=piece, past_key_values=whole.past_key_values)
    assert placeholders(made.config).video_span == (START, END)


@pytest.mark.parametrize(
    ("architecture", "tokens", "message"),
    [
        ("llava", "video", "tokens=video: it has no video tokens, choose tokens=image or text"),
        ("llava", "audio", "tokens=audio: it has no audio tokens, choose tokens=image or text"),
        ("smolvlm", "video", "tokens=video: it shows a video on its image tokens, choose tokens=image"),
        ("gemma4", "audio", "tokens=audio: it has no audio tokens, choose tokens=image, video or text"),
        ("voxtral_realtime", "audio", "tokens=audio: it has no audio tokens, choose tokens=both"),
        ("voxtral_realtime", "text", "tokens=text: the config of this it does not say which tokens are audio, choose"),
    ],
)
def test_a_target_without_a_placeholder_is_refused_in_one_line(architecture: str, tokens: str, message: str) -> None:
    named = type("it", (torch.nn.Module,), {})()
    named.config = CONFIG_MAPPING[architecture]()
    one = Intervention("v", layer=0, alpha=1, tokens=tokens)
    with pytest.raises(UserError) as refused:
        check_in_decoder(one, named, 4, None)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("gammas", "refused"),
    [
        ({"gamma_image": 2}, False),
        ({"gamma_text": 2}, True),
        ({"gamma_image": 2, "gamma_text": 2}, True),
        ({"gamma_text": 2, "phase": "decode"}, False),
    ],
)
def test_gammas_that_hidden_audio_would_not_get_are_refused(gammas: dict[str, Any], refused: bool) -> None:
    named = type("it", (torch.nn.Module,), {})()
    named.config = CONFIG_MAPPING["voxtral_realtime"]()
    one = Intervention("v", layer=0, alpha=1, tokens="both", **gammas)
    message = "the config of this it does not say which tokens are audio, leave the gammas out"
    with pytest.raises(UserError, match=message) if refused else nullcontext():
        check_in_decoder(one, named, 4, None)


def test_generated_tokens_are_neither_video_nor_audio() -> None:
    with pytest.raises(UserError, match="tokens=audio,phase=decode steers nothing"):
        Intervention("v", layer=0, alpha=1, tokens="audio", phase="decode")
    made = model("qwen2_audio")
    with steer(made, spec("audio", phase="all"), {"v": V}), continuation(1):
        steered = logits(made, torch.tensor([[50, AUDIO, 60, AUDIO]]))
    with steer(made, spec("audio"), {"v": V}), continuation(1):
        prompt_only = logits(made, torch.tensor([[50, AUDIO, 60, AUDIO]]))
    assert torch.equal(steered, prompt_only)


def test_gammas_are_factors_of_pictures_and_text_but_not_of_sounds() -> None:
    made = model("qwen2_5_omni_thinker")
    ids = torch.tensor([[50, IMAGE, 51, VIDEO, 52, AUDIO, 53]])
    seen: dict[str, Any] = {}
    for name, more in (("before", {"alpha": 0}), ("after", {"gamma_image": 3, "gamma_text": 0.5})):
        keys = spec("both", **more) if "alpha" not in more else spec("both", alpha=0)
        with steer(made, keys, {"v": V}):
            seen[name] = record(made, lambda: made(input_ids=ids))[LAYER][0]
    v = torch.from_numpy(V[LAYER]).float()
    factors = ((seen["after"] - seen["before"]) @ v / (ALPHA * v @ v)).tolist()
    assert factors == pytest.approx([0.5, 3, 0.5, 3, 0.5, 1, 0.5], rel=1e-4)


def test_an_omni_model_is_steered_in_the_part_that_writes_text() -> None:
    omni = model("qwen2_5_omni")
    ids = ids_of("audio", "qwen2_5_omni")
    options: dict[str, Any] = {"attention_mask": (ids != 0).long(), "max_new_tokens": 3, "do_sample": False}
    with steer(omni, spec("audio"), {"v": V}):
        whole = omni.thinker.generate(input_ids=ids, eos_token_id=1, **options)
    with steer(omni.thinker, spec("audio"), {"v": V}):
        alone = omni.thinker.generate(input_ids=ids, eos_token_id=1, **options)
    unsteered = omni.thinker.generate(input_ids=ids, eos_token_id=1, **options)
    assert torch.equal(whole, alone) and not torch.equal(alone, unsteered)


@pytest.mark.parametrize(("architecture", "kind"), [("qwen2_vl", "video"), ("qwen2_audio", "audio")])
def test_a_strength_by_norms_uses_those_of_the_tokens_that_are_steered(architecture: str, kind: str) -> None:
    """`scale=token` adds alpha times a token's own norm along the vector; `scale=relative` has no norms of these."""
    made, ids = model(architecture), ids_of(kind, architecture)
    v = torch.from_numpy(V[LAYER]).float()
    inputs = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    before = record(made, lambda: made(**inputs, use_cache=False))[LAYER]
    norms = torch.tensor([[sum(float(x) ** 2 for x in token) ** 0.5 for token in row] for row in before.float()])
    chosen = positions(ids, kind, architecture, ids.shape[1])
    expected = torch.where(chosen[..., None], before + 0.25 * norms[..., None] * v / v.norm(), before)
    with steer(made, spec(kind, scale="token", alpha=0.25), {"v": V}):
        after = record(made, lambda: made(**inputs, use_cache=False))[LAYER]
    assert chosen.any() and torch.allclose(after, expected, atol=1e-5)
    remember_norms(made, {layer: {"image": 1.0, "text": 2.0, "both": 1.5} for layer in range(LAYER + 1)})
    with pytest.raises(UserError, match=f"measured without {kind} tokens, use scale=token"):
        steer(made, spec(kind, scale="relative"), {"v": V}).__enter__()
    # image and text tokens keep the norms that were measured on them
    with steer(made, spec("text", scale="relative", alpha=0.5), {"v": V}):
        after = record(made, lambda: made(**inputs, use_cache=False))[LAYER]
    text = positions(ids, "text", architecture, ids.shape[1])
    assert torch.allclose(after, torch.where(text[..., None], before + 0.5 * 2.0 * v / v.norm(), before), atol=1e-5)
