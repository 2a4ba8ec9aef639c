"""Stage 1: the language model, a Qwen 2 of a quarter of a million parameters.

It reads videos and sounds as slots: the sums of the embeddings of the words for what there is. Later the encoders learn
to produce the same, so that what the model knows about words holds for what it sees and hears.
"""

import logging
import random
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from training.media.language import AUDIO_TOKENS, VIDEO_TOKENS, Sample, sample, vocabulary, words_of

log = logging.getLogger("media")
WIDTH, LAYERS, HEADS, KV_HEADS, INNER = 64, 4, 4, 2, 176
BATCH, LENGTH, STEPS, RATE = 48, 44, 900, 3e-3
SLOT_SCALE, SLOT_NOISE = 0.7, 0.15
"""The factor on the sum of a slot's word embeddings, and the noise on it in training, relative to its size."""
GRID = (4, 4, 4)
"""Pairs of frames, and rows and columns of patches of a video; four patches make one token."""
WORDS = vocabulary()
AROUND = {
    "video": ("<|vision_start|>", "<|video_pad|>", "<|vision_end|>"),
    "audio": ("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"),
}
TOKENS = {"video": VIDEO_TOKENS, "audio": AUDIO_TOKENS}


def new_model(seed: int) -> Any:
    """An untrained model with embeddings of unit size, and heads that attend to what is similar."""
    torch.manual_seed(seed)
    ids = {name: WORDS[token] for name, token in (
        ("vision_start_token_id", "<|vision_start|>"), ("vision_end_token_id", "<|vision_end|>"),
        ("image_token_id", "<|image_pad|>"), ("video_token_id", "<|video_pad|>"),
    )}  # fmt: skip
    text = {
        "vocab_size": len(WORDS), "hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "max_position_embeddings": 512,
        "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    seen = {
        "depth": 2, "embed_dim": 48, "num_heads": 4, "mlp_ratio": 2, "patch_size": 8, "temporal_patch_size": 2,
        "spatial_merge_size": 2, "hidden_size": WIDTH,
    }  # fmt: skip
    config = Qwen2VLConfig(text_config=text, vision_config=seen, tie_word_embeddings=True, **ids)
    model = Qwen2VLForConditionalGeneration(config)
    scale = WIDTH**-0.5
    with torch.no_grad():
        decoder = model.model.language_model
        decoder.embed_tokens.weight.normal_(0, scale)
        for layer in decoder.layers:
            attention, mlp, head = layer.self_attn, layer.mlp, WIDTH // HEADS
            for part in (attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
                part.weight.normal_(0, scale)
            keys = attention.k_proj.weight.view(KV_HEADS, head, WIDTH).repeat_interleave(HEADS // KV_HEADS, 0)
            attention.q_proj.weight.copy_(keys.reshape(-1, WIDTH) + 0.3 * scale * torch.randn(WIDTH, WIDTH))
            attention.o_proj.weight.normal_(0, 0.5 * scale)
            mlp.down_proj.weight.normal_(0, 0.5 * INNER**-0.5)
    return model


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples as tensors.

    Attributes:
        ids: [rows, LENGTH].
        slots: ids of the words of the slots [rows, LENGTH, 2]; 0 elsewhere.
        places: [3, rows, LENGTH], positions in time, height and width.
        weight: loss weights [rows, LENGTH].
        answers: whether each position is an answer [rows, LENGTH].
    """

    ids: Tensor
    slots: Tensor
    places: Tensor
    weight: Tensor
    answers: Tensor


def places_of(kind: str) -> Tensor:
    """The positions of a sample of a kind, [3, LENGTH]; those of a video as in Qwen2-VL."""
    line = torch.arange(LENGTH).expand(3, -1).clone()
    if kind == "video":
        time, rows, columns = GRID[0], GRID[1] // 2, GRID[2] // 2
        grid = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (time, rows, columns)), indexing="ij"))
        line[:, 1 : 1 + VIDEO_TOKENS] = 1 + grid.reshape(3, -1)
        rest = LENGTH - 1 - VIDEO_TOKENS
        line[:, 1 + VIDEO_TOKENS :] = 1 + max(time, rows, columns) + torch.arange(rest)
    return line


PLACES = {kind: places_of(kind) for kind in ("text", "video", "audio")}


def collate(samples: list[Sample]) -> Batch:
    """Turn samples into padded tensors."""
    rows = len(samples)
    ids, slots = torch.zeros(rows, LENGTH, dtype=torch.long), torch.zeros(rows, LENGTH, 2, dtype=torch.long)
    weight, answers = torch.zeros(rows, LENGTH), torch.zeros(rows, LENGTH, dtype=torch.bool)
    for row, one in enumerate(samples):
        before: list[str] = []
        if one.kind != "text":
            start, each, end = AROUND[one.kind]
            before = [start, *[each] * TOKENS[one.kind], end]
            for place, words in enumerate(one.slots, start=1):
                for number, word in enumerate(words):
                    slots[row, place, number] = WORDS[word]
        tokens = [WORDS[word] for word in [*before, *words_of(one.text), "<eos>"]][:LENGTH]
        ids[row, : len(tokens)] = torch.tensor(tokens)
        weight[row, len(before) : len(tokens)] = 1.0 if one.kind == "text" else 0.1
        if one.answer:
            at = slice(len(tokens) - 1 - one.answer, len(tokens) - 1)
            weight[row, at], answers[row, at] = 3.0, True
    places = torch.stack([PLACES[one.kind] for one in samples], 1)
    return Batch(ids, slots, places, weight, answers)


def slot_embeddings(model: Any, slots: Tensor) -> Tensor:
    """Ids of words [..., 2] ▸ [..., WIDTH]; 0 counts as nothing."""
    words: Tensor = model.get_input_embeddings()(slots) * (slots != 0).unsqueeze(-1)
    return words.sum(-2) * SLOT_SCALE


def logits(model: Any, batch: Batch, noise: float = SLOT_NOISE) -> Tensor:
    """[rows, LENGTH, words]."""
    slots = slot_embeddings(model, batch.slots)
    noisy = slots + noise * slots.detach().pow(2).mean(-1, keepdim=True).sqrt() * torch.randn_like(slots)
    shown = batch.slots.any(-1, keepdim=True)
    embedded = torch.where(shown, noisy, model.get_input_embeddings()(batch.ids))
    hidden = model.model.language_model(inputs_embeds=embedded, position_ids=batch.places, use_cache=False)
    found: Tensor = model.lm_head(hidden.last_hidden_state)
    return found


def train(seed: int, steps: int = STEPS) -> Any:
    """Train the language model."""
    model, rng = new_model(seed), random.Random(seed)
    parts = [*model.model.language_model.parameters()]
    optimizer = torch.optim.AdamW(parts, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50) * min(1.0, 2.2 * (1 - step / steps) + 0.02)
        batch = collate([sample(rng) for _ in range(BATCH)])
        scores = logits(model, batch)[:, :-1]
        losses = F.cross_entropy(scores.transpose(1, 2), batch.ids[:, 1:], reduction="none")
        loss = (losses * batch.weight[:, 1:]).sum() / batch.weight[:, 1:].sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parts, 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            log.info("text: step %d, loss %.3f, answers %s", step + 1, loss.item(), accuracy(model, seed + 1))
    return model


@torch.no_grad()
def accuracy(model: Any, seed: int, rows: int = 128) -> dict[str, float]:
    """The share of right answers about slots, for each question."""
    rng = random.Random(seed)
    samples = [one for one in (sample(rng) for _ in range(2 * rows)) if one.answer][:rows]
    batch = collate(samples)
    right = (logits(model, batch, 0.0)[:, :-1].argmax(-1) == batch.ids[:, 1:]) & batch.answers[:, 1:]
    by_question: dict[str, list[bool]] = {}
    for one, answered in zip(samples, right.any(1).tolist(), strict=True):
        by_question.setdefault(one.text.split(" ")[0] + one.text.split(" ")[1], []).append(answered)
    return {question: round(sum(of) / len(of), 2) for question, of in by_question.items()}
