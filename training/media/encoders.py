"""Stages 2 and 3: what the language model sees and hears by. Each encoder learns to produce the slots' embeddings."""

import logging
import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    WhisperFeatureExtractor,
)

from lmms_steer.tiny_world.moving import SIDE, sample_moving
from lmms_steer.tiny_world.sounds import RATE, sample_tones
from training.media.language import AUDIO_TOKENS, audio_slots, build_tokenizer, video_slots
from training.media.text import GRID, HEADS, INNER, KV_HEADS, LAYERS, WIDTH, WORDS, slot_embeddings

log = logging.getLogger("media")
BATCH, BANK = 64, 3000
STEPS, RATES = {"video": 1000, "audio": 700}, {"video": 3e-3, "audio": 2e-3}
"""Of each encoder: its steps and peak learning rate."""
HARD = 0.5
"""The share of videos and sounds in the style `hard`."""
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'KIND' %}MARK"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def video_processor() -> Any:
    """The processor of the model that sees: every frame as it is, one answer word after the question."""
    pixels = {"shortest_edge": SIDE * SIDE, "longest_edge": SIDE * SIDE}
    shape = {"patch_size": 8, "temporal_patch_size": 2, "merge_size": 2}
    videos = Qwen2VLVideoProcessor(size=pixels, cap_pixels_per_frame=False, fps=2.0, do_sample_frames=True, **shape)
    images = Qwen2VLImageProcessor(size=pixels, **shape)
    template = TEMPLATE.replace("KIND", "video").replace("MARK", "<|vision_start|><|video_pad|><|vision_end|>")
    return Qwen2VLProcessor(images, build_tokenizer(), videos, chat_template=template)


def audio_processor() -> Any:
    """The processor of the model that hears."""
    features = WhisperFeatureExtractor(feature_size=32, sampling_rate=RATE, hop_length=160, chunk_length=1, n_fft=400)
    template = TEMPLATE.replace("KIND", "audio").replace("MARK", "<|audio_bos|><|AUDIO|><|audio_eos|>")
    return Qwen2AudioProcessor(features, build_tokenizer(), chat_template=template)


def train_video(model: Any, seed: int, steps: int | None = None, bank: int = BANK) -> None:
    """Train the vision tower of the model of stage 1."""
    rng, videos = random.Random(seed), video_processor().video_processor
    pixels, words = [], []
    for _ in range(bank):
        one = sample_moving(rng, "hard" if rng.random() < HARD else "plain")
        read = videos(
            videos=[torch.from_numpy(one.render()).permute(0, 3, 1, 2)], do_sample_frames=False, return_tensors="pt"
        )
        pixels.append(read["pixel_values_videos"].half())
        words.append(_ids(video_slots(one.colour, one.path().tolist(), one.direction, SIDE)))
    tower, grid = model.model.visual, torch.tensor([GRID])

    def run(chosen: list[int]) -> Tensor:
        batch = torch.cat([pixels[number] for number in chosen]).float()
        found: Tensor = tower(batch, grid_thw=grid.expand(len(chosen), -1)).pooler_output
        return found.view(len(chosen), -1, WIDTH)

    _fit(run, list(tower.parameters()), _targets(model, words), steps or STEPS["video"], rng, "video")


def hearing_model(language_model: Any, seed: int) -> Any:
    """An untrained Qwen2-Audio with the language model of stage 1."""
    torch.manual_seed(seed)
    text = {
        "model_type": "qwen2", "vocab_size": len(WORDS), "hidden_size": WIDTH, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 512, "pad_token_id": 0, "eos_token_id": 1,
        "bos_token_id": None, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }  # fmt: skip
    heard = {
        "d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "num_mel_bins": 32,
        "max_source_positions": 2 * AUDIO_TOKENS,
    }  # fmt: skip
    config = Qwen2AudioConfig(audio_config=heard, text_config=text, audio_token_index=WORDS["<|AUDIO|>"])
    config.pad_token_id = 0
    model = Qwen2AudioForConditionalGeneration(config)
    model.get_decoder().load_state_dict(language_model.state_dict())
    # Qwen2-Audio does not tie them
    model.get_output_embeddings().weight.data.copy_(model.get_input_embeddings().weight)
    return model


def train_audio(model: Any, seed: int, steps: int | None = None, bank: int = BANK) -> None:
    """Train the encoder and the projector of `hearing_model`."""
    rng, features = random.Random(seed), audio_processor().feature_extractor
    mel, words = [], []
    for _ in range(bank):
        one = sample_tones(rng, "hard" if rng.random() < HARD else "plain")
        mel.append(features(one.render(), sampling_rate=RATE, return_tensors="pt")["input_features"][0].half())
        words.append(_ids(audio_slots(one.pitch, one.times().tolist())))
    holder = model.model if hasattr(model.model, "audio_tower") else model
    parts = [*holder.audio_tower.parameters(), *holder.multi_modal_projector.parameters()]

    def run(chosen: list[int]) -> Tensor:
        heard = holder.audio_tower(torch.stack([mel[number] for number in chosen]).float())
        found: Tensor = holder.multi_modal_projector(heard.last_hidden_state)
        return found

    _fit(run, parts, _targets(model, words), steps or STEPS["audio"], rng, "audio")


def _ids(slots: list[tuple[str, ...]]) -> Tensor:
    return torch.tensor([[WORDS[word] for word in (*words, "<pad>")[:2]] for words in slots])


@torch.no_grad()
def _targets(model: Any, words: list[Tensor]) -> Tensor:
    return slot_embeddings(model, torch.stack(words))


def _fit(
    run: Callable[[list[int]], Tensor], parts: list[Tensor], targets: Tensor, steps: int, rng: random.Random, name: str
) -> None:
    """Fit an encoder's output to the slots; a hundredth of the bank is held out."""
    parts = [part for part in parts if part.requires_grad]
    optimizer = torch.optim.AdamW(parts, lr=RATES[name], betas=(0.9, 0.98), weight_decay=0.01)
    held_out = len(targets) // 100 + 2
    scale = float(targets.var())
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATES[name] * min(1, (step + 1) / 50) * min(1.0, 2 * (1 - step / steps) + 0.02)
        chosen = [rng.randrange(held_out, len(targets)) for _ in range(BATCH)]
        loss = (run(chosen) - targets[chosen]).pow(2).mean() / scale
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts, 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            with torch.no_grad():
                chosen = list(range(held_out))
                unseen = float((run(chosen) - targets[chosen]).pow(2).mean() / scale)
            log.info("%s: step %d, unexplained %.3f, on unseen ones %.3f", name, step + 1, loss.item(), unseen)
