"""Stage 1: the text backbone, a Gemma 2 of half a million parameters.

Some texts follow a scene in 16 slots, each the sum of the embeddings of the words for its cell. Later the projector
learns to produce the same from an image patch, so that the text model's skills transfer to images.
"""

import logging
import random
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import Gemma2Config, Gemma2ForCausalLM

from lmms_steer.tiny_world.language import words_of
from lmms_steer.tiny_world.questions import MIX, Mix
from lmms_steer.tiny_world.scenes import CELLS, cell_words
from training import corpus
from training.fast import fast
from training.tokenizer import vocabulary_ids

log = logging.getLogger(__name__)
WIDTH, LAYERS, HEADS, KV_HEADS = 96, 5, 4, 2
BATCH, LENGTH = 48, 66
SLOT_SCALE = 0.6
"""The factor on the sum of a slot's word embeddings, so that a slot is about as large as a word's embedding."""
SLOT_NOISE = 0.15
"""Noise on the slots in training, relative to their size."""
VOCABULARY = vocabulary_ids()
PAD, EOS, BOS, IMAGE = (VOCABULARY[token] for token in ("<pad>", "<eos>", "<bos>", "<image>"))


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the training.

    Attributes:
        steps: how many.
        rate: peak learning rate.
        mix: the kinds of questions.
        vertical: the share of spatial questions about above or below.
        curriculum: whether scenes begin with few objects.
        hold: the share of the steps before the learning rate begins to decay.
    """

    steps: int
    rate: float
    mix: Mix = MIX
    vertical: float = 0.5
    curriculum: bool = False
    hold: float = 0.0


# above and below are learned late, so the second phase has more of them
PHASES = (
    Phase(2600, 2e-3, curriculum=True, hold=0.55),
    Phase(1100, 1.5e-3, ("find", *["spatial"] * 5, *["counting"] * 2, "colour", "exist"), vertical=0.7),
)


def encode(text: str) -> list[int]:
    """The token ids of a text, without special tokens."""
    return [VOCABULARY[word] for word in words_of(text)]


def new_model(seed: int) -> Gemma2ForCausalLM:
    """An untrained model.

    The initialisation speeds training up: embeddings of unit size, query matrices close to the key matrices, so that
    heads attend to similar content, and small outputs of the sub-layers.
    """
    torch.manual_seed(seed)
    head = WIDTH // HEADS
    config = Gemma2Config(
        vocab_size=len(VOCABULARY),
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
            for part in (attention.k_proj, attention.v_proj, attention.o_proj, mlp.gate_proj, mlp.up_proj):
                part.weight.normal_(0, scale)
            mlp.down_proj.weight.normal_(0, (WIDTH * 2.5) ** -0.5)
            keys = attention.k_proj.weight.view(KV_HEADS, head, WIDTH).repeat_interleave(HEADS // KV_HEADS, 0)
            attention.q_proj.weight.copy_(keys.reshape(-1, WIDTH) + 0.3 * scale * torch.randn(HEADS * head, WIDTH))
            layer.post_attention_layernorm.weight.fill_(-0.6)
            layer.post_feedforward_layernorm.weight.fill_(-0.6)
    return model


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of samples.

    Attributes:
        ids: token ids [rows, LENGTH].
        weight: loss weights [rows, LENGTH].
        slots: word ids of the slots [rows, 16, 4].
        prefix: length of the part with bidirectional attention [rows].
        has_slots: whether the row has slots [rows].
    """

    ids: Tensor
    weight: Tensor
    slots: Tensor
    prefix: Tensor
    has_slots: Tensor


def collate(samples: list[corpus.Sample]) -> Batch:
    """Turn samples into padded tensors."""
    rows = len(samples)
    ids = np.full((rows, LENGTH), PAD)
    weight = np.zeros((rows, LENGTH), np.float32)
    slots = np.full((rows, CELLS, 4), PAD)
    prefix = np.zeros(rows, np.int64)
    for i, sample in enumerate(samples):
        row, weights = [BOS], [0.0]
        if sample.mode != "text" and sample.scene is not None:
            row, weights = [IMAGE] * CELLS + [BOS], [0.0] * (CELLS + 1)
            slots[i] = [[VOCABULARY.get(word, PAD) for word in words] for words in cell_words(sample.scene)]
        for number, (text, loss) in enumerate(sample.pieces):
            tokens = encode(text)
            row += tokens
            weights += [loss] * len(tokens)
            if number == 0 and sample.mode == "prefix":
                prefix[i] = len(row)
                weights = [0.0] * len(row)
        row, weights = [*row, EOS][:LENGTH], [*weights, 0.3][:LENGTH]
        ids[i, : len(row)] = row
        weight[i, : len(row)] = weights
    has_slots = torch.tensor([sample.mode != "text" for sample in samples])
    ids_, weight_, slots_, prefix_ = (torch.from_numpy(array) for array in (ids, weight, slots, prefix))
    return Batch(ids_, weight_, slots_, prefix_, has_slots)


def slot_embeddings(embed: torch.nn.Module, slots: Tensor) -> Tensor:
    """Word ids [..., 4] to slot embeddings [..., WIDTH], in the scale of `embed`. Padding counts as zero."""
    words: Tensor = embed(slots) * (slots != PAD).unsqueeze(-1)
    return words.sum(-2) * SLOT_SCALE


def logits(model: Gemma2ForCausalLM, batch: Batch, noise: float = SLOT_NOISE) -> Tensor:
    """Compute logits [rows, LENGTH, vocabulary], layer by layer, with an attention mask for prefix and slots."""
    decoder = model.model
    embedded = decoder.embed_tokens(batch.ids)
    slots = slot_embeddings(decoder.embed_tokens, batch.slots)
    slots = slots + noise * slots.detach().pow(2).mean(-1, keepdim=True).sqrt() * torch.randn_like(slots)
    first = torch.where(batch.has_slots[:, None, None], slots, embedded[:, :CELLS])
    hidden = torch.cat([first, embedded[:, CELLS:]], 1)
    index = torch.arange(LENGTH)
    in_prefix = index[None] < batch.prefix[:, None]
    visible = (index[None, :, None] >= index) | (in_prefix[:, :, None] & in_prefix[:, None])
    mask = torch.zeros(visible.shape).masked_fill_(~visible, -1e9)[:, None]
    positions = index[None] + 1  # PaliGemma counts from 1
    rotary = decoder.rotary_emb(hidden, positions)
    for layer in decoder.layers:
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, position_ids=positions)
    cap = model.config.final_logit_softcapping
    capped: Tensor = torch.tanh(model.lm_head(decoder.norm(hidden)) / cap) * cap
    return capped


def train(seed: int, phases: tuple[Phase, ...] = PHASES) -> Gemma2ForCausalLM:
    """Train the backbone."""
    model = new_model(seed)
    rng = random.Random(seed)
    with fast(model):
        for number, phase in enumerate(phases, start=1):
            _run(model, phase, rng, f"text {number}/{len(phases)}")
    return model


def _run(model: Gemma2ForCausalLM, phase: Phase, rng: random.Random, title: str) -> None:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=phase.rate, betas=(0.9, 0.98))
    accuracies: list[float] = []
    for step in tqdm(range(phase.steps), desc=title, disable=None):
        done = step / phase.steps
        most = min(6, 2 + int(done / 0.3 * 5)) if phase.curriculum else 6
        rate = phase.rate * min(1, (step + 1) / 100) * max(0.02, min(1, (1 - done) / (1 - phase.hold)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = collate([corpus.sample(rng, most, phase.mix, phase.vertical) for _ in range(BATCH)])
        scores = logits(model, batch)[:, :-1]
        losses = F.cross_entropy(scores.transpose(1, 2), batch.ids[:, 1:], reduction="none")
        loss = (losses * batch.weight[:, 1:]).sum() / batch.weight[:, 1:].sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        answers = (batch.weight[:, 1:] == corpus.ANSWER_WEIGHT) & batch.has_slots[:, None]
        accuracies.append(float((scores.argmax(-1) == batch.ids[:, 1:])[answers].float().mean()))
        if (step + 1) % 100 == 0 or step + 1 == phase.steps:
            log.info(
                "%s step %d loss %.3f answers %.3f", title, step + 1, loss.item(), float(np.mean(accuracies[-100:]))
            )


@torch.no_grad()
def answer_accuracy(model: Gemma2ForCausalLM, seed: int, mode: corpus.Mode = "prefix", batches: int = 8) -> float:
    """The share of correct answer words about scenes that the backbone has not seen."""
    rng = random.Random(seed)
    correct: list[Tensor] = []
    for _ in range(batches):
        samples: list[corpus.Sample] = []
        while len(samples) < BATCH:
            drawn = corpus.sample(rng)
            if drawn.mode == mode and drawn.pieces[-1][1] == corpus.ANSWER_WEIGHT:
                samples.append(drawn)
        batch = collate(samples)
        scores = logits(model, batch, noise=0.0)[:, :-1]
        answers = batch.weight[:, 1:] == corpus.ANSWER_WEIGHT
        correct.append((scores.argmax(-1) == batch.ids[:, 1:])[answers])
    return float(torch.cat(correct).float().mean())
