"""Stage 3: the tiny PaliGemma 2. A projector in closed form, then a short training of projector and language model.

The closed form maps a patch's features to the slot that the text model reads for that cell. The training after it is
short, at a small learning rate, on purpose: a language model far from the backbone no longer reacts to its vectors.
"""

import logging
import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm
from transformers import (
    Gemma2ForCausalLM,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipImageProcessor,
    SiglipVisionModel,
)

from lmms_steer.tiny_world.language import HINTS, scene_sentence
from lmms_steer.tiny_world.questions import ask
from lmms_steer.tiny_world.scenes import CELLS, SIZE, Scene, cell_words
from training.fast import fast
from training.text import BOS, EOS, IMAGE, PAD, VOCABULARY, encode, slot_embeddings
from training.tokenizer import build_tokenizer
from training.vision import image_bank, pixels

log = logging.getLogger(__name__)
BANK, BATCH, LENGTH = 6000, 48, 64


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the training.

    Attributes:
        steps: how many.
        rate: peak learning rate.
        language_model: whether the language model is trained too, and not only the projector.
    """

    steps: int
    rate: float
    language_model: bool


# at 1e-3 the projector's outputs drift away from the word embeddings
PHASES = (Phase(90, 2e-4, language_model=False), Phase(260, 1e-4, language_model=True))


def assemble(backbone: Path, tower: Path) -> PaliGemmaForConditionalGeneration:
    """Put backbone and vision tower into one model, with an untrained projector."""
    text = Gemma2ForCausalLM.from_pretrained(backbone)
    vision = SiglipVisionModel.from_pretrained(tower)
    text_config, vision_config = text.config.to_dict(), vision.config.to_dict()
    for config in (text_config, vision_config):
        config.pop("_name_or_path", None)
    config = PaliGemmaConfig(
        text_config=text_config,
        vision_config=vision_config,
        image_token_index=IMAGE,
        projection_dim=text.config.hidden_size,
        hidden_size=text.config.hidden_size,
        vocab_size=len(VOCABULARY),
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=BOS,
        attn_implementation="eager",
    )
    model = PaliGemmaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.model.vision_tower.load_state_dict(vision.state_dict())
    return model


def image_features(model: PaliGemmaForConditionalGeneration, patches: Tensor) -> dict[str, SimpleNamespace]:
    """The argument `mm_encoder_outputs` of `forward`, from features of the vision tower [n, 16, width]."""
    return {"image": SimpleNamespace(pooler_output=model.model.multi_modal_projector(patches))}


@torch.no_grad()
def patch_features(model: PaliGemmaForConditionalGeneration, images: Tensor, batch: int = 500) -> Tensor:
    """Features of the (frozen) vision tower, before the projector: [n, 16, width]. images: [n, 3, 64, 64]."""
    parts = [model.model.vision_tower(images[i : i + batch]).last_hidden_state for i in range(0, len(images), batch)]
    return torch.cat(parts)


@torch.no_grad()
def solve_projector(model: PaliGemmaForConditionalGeneration, patches: Tensor, scenes: list[Scene]) -> float:
    """Set the projector to the least-squares map from patch features to the slots of the text model.

    Returns:
        The share of variance explained.
    """
    words = torch.tensor([[[VOCABULARY.get(w, PAD) for w in cell] for cell in cell_words(s)] for s in scenes])
    target = slot_embeddings(model.get_input_embeddings(), words).flatten(0, 1)
    weight = torch.full((len(scenes), CELLS), 0.25)  # most cells are empty
    for i, scene in enumerate(scenes):
        weight[i, [thing.cell for thing in scene]] = 1.0
    scale = weight.flatten().sqrt()[:, None]
    inputs = torch.cat([patches.flatten(0, 1), torch.ones(len(target), 1)], 1)
    solution = torch.linalg.lstsq(inputs * scale, target * scale).solution
    projector = model.model.multi_modal_projector.linear
    projector.weight.copy_(solution[:-1].T)
    projector.bias.copy_(solution[-1])
    error = (((inputs @ solution - target) * scale) ** 2).sum()
    return float(1 - error / (((target - target.mean(0)) * scale) ** 2).sum())


def _conversation(scene: Scene, rng: random.Random) -> tuple[str, list[tuple[str, bool]]]:
    """A prompt, and the texts after it, each with whether it is supervised (an answer) or not (another question)."""
    if rng.random() < 0.08:
        return "list it", [(scene_sentence(scene, rng), True)]
    first = ask(scene, rng)
    prompt = f"{rng.choice(HINTS)} {first.text}" if rng.random() < 0.12 else first.text
    suffix: list[tuple[str, bool]] = [(first.answer, True)]
    # an answer ends with the end-of-sequence token where generation would end
    for question in [ask(scene, rng) for _ in range(2)]:
        suffix += [(question.text + "\n", False), (question.answer, True)]
    return prompt, suffix if rng.random() < 0.6 else suffix[:1]


def _collate(rows: list[tuple[str, list[tuple[str, bool]]]]) -> dict[str, Tensor]:
    """The model's inputs and labels [rows, LENGTH], padded on the right."""
    shape = (len(rows), LENGTH)
    ids, labels = torch.full(shape, PAD), torch.full(shape, -100)
    attention, types = torch.zeros(shape, dtype=torch.long), torch.ones(shape, dtype=torch.long)
    for i, (prompt, suffix) in enumerate(rows):
        before = [IMAGE] * CELLS + [BOS] + encode(prompt) + encode("\n")
        after, targets = [], []
        for text, supervised in suffix:
            tokens = encode(text)
            after += tokens
            targets += tokens if supervised else [-100] * len(tokens)
        row, label = (before + after + [EOS])[:LENGTH], ([-100] * len(before) + targets + [EOS])[:LENGTH]
        ids[i, : len(row)] = torch.tensor(row)
        labels[i, : len(row)] = torch.tensor(label)
        attention[i, : len(row)] = 1
        types[i, : len(before)] = 0
    return {"input_ids": ids, "labels": labels, "attention_mask": attention, "token_type_ids": types}


def train(
    seed: int, backbone: Path, tower: Path, phases: tuple[Phase, ...] = PHASES, bank: int = BANK
) -> PaliGemmaForConditionalGeneration:
    """Train the multimodal model.

    Args:
        seed: of every random choice.
        backbone: folder of the trained text model.
        tower: folder of the trained vision tower.
        phases: of the training.
        bank: the number of training images.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed + 5)
    model = assemble(backbone, tower)
    scenes, images = image_bank(seed + 21, bank)
    patches = patch_features(model, pixels(images))
    log.info("projector: the closed form explains %.3f of the variance", solve_projector(model, patches, scenes))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with fast(model):
        for number, phase in enumerate(phases, start=1):
            _run(model, phase, scenes, patches, rng, f"multimodal {number}/{len(phases)}")
    return model.eval()


def _run(
    model: PaliGemmaForConditionalGeneration,
    phase: Phase,
    scenes: list[Scene],
    patches: Tensor,
    rng: random.Random,
    title: str,
) -> None:
    trained: list[nn.Module] = [model.model.multi_modal_projector]
    trained += [model.model.language_model] if phase.language_model else []
    parameters = [p.requires_grad_(True) for part in trained for p in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=phase.rate, weight_decay=0.01, betas=(0.9, 0.98))
    cap = model.config.text_config.final_logit_softcapping
    for step in tqdm(range(phase.steps), desc=title, disable=None):
        decay = max(0.02, min(1, 2 * (1 - step / phase.steps)))
        for group in optimizer.param_groups:
            group["lr"] = phase.rate * min(1, (step + 1) / 50) * decay
        rows = [rng.randrange(len(scenes)) for _ in range(BATCH)]
        inputs = _collate([_conversation(scenes[row], rng) for row in rows])
        labels = inputs.pop("labels")[:, 1:]
        features = image_features(model, patches[rows])
        # without a cache, as the layers share one index in `fast`
        hidden = model.model(**inputs, mm_encoder_outputs=features, use_cache=False).last_hidden_state
        supervised = labels != -100
        scores = torch.tanh(model.lm_head(hidden[:, :-1][supervised]) / cap) * cap
        loss = F.cross_entropy(scores, labels[supervised])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % 30 == 0:
            log.info("%s step %d loss %.3f", title, step + 1, loss.item())


def build_processor() -> PaliGemmaProcessor:
    """A PaliGemma processor for images of 64 x 64 pixels and 16 image tokens."""
    half = [0.5, 0.5, 0.5]
    images = SiglipImageProcessor(size={"height": SIZE, "width": SIZE}, image_mean=half, image_std=half)
    images.image_seq_length = CELLS
    return PaliGemmaProcessor(images, build_tokenizer())


@torch.no_grad()
def cover_processor_tokens(model: PaliGemmaForConditionalGeneration, processor: PaliGemmaProcessor) -> None:
    """Extend the embeddings to the location and segmentation tokens that every PaliGemma processor adds.

    They get the embedding of `<unk>`. They are never used here, but a text with one must not read past the table.
    """
    unknown = model.get_input_embeddings().weight[VOCABULARY["<unk>"]].clone()
    model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    model.get_input_embeddings().weight[len(VOCABULARY) :] = unknown
