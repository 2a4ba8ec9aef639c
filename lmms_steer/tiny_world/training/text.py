"""Stage 1: the text backbone. It learns the world from words alone; a scene may also be 16 slots, each a bag of words."""

import logging

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm
from transformers import Gemma2Config, Gemma2ForCausalLM

from lmms_steer.tiny_world.tokenizer import BOS, EOS, PAD, vocabulary
from lmms_steer.tiny_world.training.fast import fast
from lmms_steer.tiny_world.training.samples import ANSWER, LENGTH, Batch, Lesson, Mode, batch, stream
from lmms_steer.tiny_world.world import CELLS, MOST_THINGS

log = logging.getLogger(__name__)
WIDTH, LAYERS, HEADS, KV_HEADS = 96, 5, 4, 2
RATE, WARMUP, DECAY_FROM = 2e-3, 100, 0.5
SLOT = 0.6  # a slot is this times the sum of its words' embeddings
SLOT_NOISE = 0.15


def new_model(seed: int) -> Gemma2ForCausalLM:
    """Begins with unit-sized embeddings, attention that looks for like words (q near k), and small sub-layer outputs."""
    torch.manual_seed(seed)
    head = WIDTH // HEADS
    config = Gemma2Config(
        vocab_size=len(vocabulary()),
        hidden_size=WIDTH,
        intermediate_size=240,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=head,
        query_pre_attn_scalar=head,
        max_position_embeddings=512,
        sliding_window=512,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=BOS,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        attn_implementation="eager",
    )
    model = Gemma2ForCausalLM(config)
    scale = WIDTH**-0.5
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(0, scale)[PAD].zero_()
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for linear in (attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj):
                linear.weight.normal_(0, scale)
            mlp.down_proj.weight.normal_(0, (2.5 * WIDTH) ** -0.5)
            keys = attention.k_proj.weight.view(KV_HEADS, head, WIDTH).repeat_interleave(HEADS // KV_HEADS, 0)
            attention.q_proj.weight.copy_(keys.reshape(-1, WIDTH) + 0.3 * torch.randn(WIDTH, WIDTH) * scale)
            layer.post_attention_layernorm.weight.fill_(-0.6)
            layer.post_feedforward_layernorm.weight.fill_(-0.6)
    return model


def train(seed: int, steps: int, compiled: bool = True) -> Gemma2ForCausalLM:
    """Train the backbone for a fixed number of steps, on scenes that grow from two things to six."""
    model = new_model(seed)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98))
    lessons = [_lesson(seed, step, steps) for step in range(steps)]
    losses: list[float] = []
    right: list[float] = []
    with fast(model, compiled):
        for step, arrays in enumerate(tqdm(stream(lessons), "text backbone", steps, mininterval=5)):
            for group in optimizer.param_groups:
                group["lr"] = RATE * schedule(step, steps)
            loss, accuracy = _loss(model, arrays, SLOT_NOISE)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(float(loss))
            right.append(accuracy)
            if (step + 1) % 200 == 0:
                mean_loss, mean_right = np.mean(losses[-50:]), np.mean(right[-50:])
                log.info("text %d/%d loss %.3f answers right %.3f", step + 1, steps, mean_loss, mean_right)
    return model.eval()


def schedule(step: int, steps: int) -> float:
    """Warm up, hold, then fall in a line."""
    warm = min(1.0, (step + 1) / WARMUP)
    done = step / steps
    return warm * (1.0 if done < DECAY_FROM else max(0.02, (1 - done) / (1 - DECAY_FROM)))


def _lesson(seed: int, step: int, steps: int) -> Lesson:
    done = step / steps
    return Lesson(seed * 1_000_003 + step, min(MOST_THINGS, 2 + int(done / 0.22 * 5)), late=done > 0.5)


@torch.no_grad()
def accuracy(model: Gemma2ForCausalLM, mode: Mode, batches: int = 8) -> float:
    """Share of right answer words on new scenes of one mode, by the ordinary layers."""
    lessons = [Lesson(2**40 + number, MOST_THINGS, False, mode) for number in range(batches)]
    return float(np.mean([_loss(model, batch(lesson), 0.0)[1] for lesson in lessons]))


def _loss(model: Gemma2ForCausalLM, arrays: Batch, noise: float) -> tuple[torch.Tensor, float]:
    ids, bags = torch.from_numpy(arrays.ids).long(), torch.from_numpy(arrays.bags).long()
    weights = torch.from_numpy(arrays.weights)[:, 1:]
    embedded = _with_slots(model, ids, bags, torch.from_numpy(arrays.slotted), noise)
    logits = _logits(model, embedded, torch.from_numpy(arrays.prefix).long())[:, :-1]
    each = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    asked = weights == ANSWER
    right = (logits.detach().argmax(-1)[asked] == ids[:, 1:][asked]).float().mean()
    return (each * weights).sum() / weights.sum(), float(right)


def _with_slots(
    model: Gemma2ForCausalLM, ids: torch.Tensor, bags: torch.Tensor, slotted: torch.Tensor, noise: float
) -> torch.Tensor:
    """Embeddings (B, L, d) in which the first 16 positions of slotted rows are noisy bags of words."""
    embed = model.model.embed_tokens
    words, slot = embed(ids), embed(bags).sum(2) * SLOT
    slot = slot + noise * slot.detach().pow(2).mean(-1, keepdim=True).sqrt() * torch.randn_like(slot)
    return torch.cat([torch.where(slotted[:, None, None], slot, words[:, :CELLS]), words[:, CELLS:]], 1)


def _logits(model: Gemma2ForCausalLM, embedded: torch.Tensor, prefix: torch.Tensor) -> torch.Tensor:
    """The decoder by hand, for its own mask: causal, but bidirectional within the prefix, as PaliGemma's is."""
    where = torch.arange(LENGTH)
    within = where[None] < prefix[:, None]
    seen = torch.tril(torch.ones(LENGTH, LENGTH, dtype=torch.bool)) | (within[:, :, None] & within[:, None])
    mask = torch.zeros(seen.shape).masked_fill_(~seen, -1e9)[:, None]
    position = where[None] + 1  # PaliGemma counts from 1
    rotary = model.model.rotary_emb(embedded, position)
    hidden = embedded
    for layer in model.model.layers:
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, position_ids=position)
    cap = model.config.final_logit_softcapping
    logits: torch.Tensor = torch.tanh(model.lm_head(model.model.norm(hidden)) / cap) * cap
    return logits
