"""Vectors from the multimodal model itself: pairs of questions about an image, one about the concept and one not.

    {"image": "kitchen.jpg", "prompt": "What is left of the pan?", "contrast": "What colour is the pan?"}

Activations are read at the last token of the prompt, where the model is about to answer: the anchors from `prompt`, the
controls from `contrast`. All methods use them like the tokens of sentences. To a method that pairs rows or holds them
out by sentence, the two rows of a line belong to one sentence.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lmms_steer._util.json import parse_json
from lmms_steer._util.progress import progress_bar
from lmms_steer.concepts import Concept, Pair
from lmms_steer.errors import UserError, reason
from lmms_steer.extraction.activations import Activations, Rows, out_of_memory
from lmms_steer.extraction.tokens import TokenSpan
from lmms_steer.models.batches import ShrinkingRunner
from lmms_steer.models.prompts import prompt_format_for
from lmms_steer.models.visuals import open_image
from lmms_steer.steering.recording import record_layers


@dataclass(frozen=True, slots=True)
class ImagePair:
    """One line of a file of questions: an image, a question about the concept, and one about something else."""

    image: Path
    prompt: str
    contrast: str


def read_image_pairs(path: Path) -> list[ImagePair]:
    """Read a JSONL file; image paths are relative to its folder.

    Raises:
        UserError: for a line that is not as expected, with its number; for an image that does not exist.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the questions {str(path)!r}: {reason(error)}") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            values = [row[key] for key in ("image", "prompt", "contrast")]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{str(path)!r}, line {number}: expected image, prompt and contrast in JSON") from error
        if not all(isinstance(value, str) and value.strip() for value in values):
            raise UserError(f"{str(path)!r}, line {number}: image, prompt and contrast must be strings")
        image = path.parent / values[0]
        if not image.is_file():
            raise UserError(f"{str(path)!r}, line {number}: no such image: {str(image)!r}")
        pairs.append(ImagePair(image, values[1], values[2]))
    if not pairs:
        raise UserError(f"{str(path)!r} contains no question")
    return pairs


def image_pair_concept(name: str, pairs: list[ImagePair]) -> Concept:
    """The questions as a concept, so that its hash is in the provenance like the hash of sentences.

    The hash of each image takes the place of the anchor.
    """
    sides = []
    for pair in pairs:
        image = hashlib.sha256(pair.image.read_bytes()).hexdigest()
        sides.append((Pair(image, pair.prompt), Pair(image, pair.contrast)))
    prompts, contrasts = zip(*sides, strict=True)
    return Concept(name, "contrasting questions about images", tuple(prompts), tuple(contrasts))


def read_image_pair_activations(
    model: Any, processor: Any, pairs: list[ImagePair], batch_size: int, runner: ShrinkingRunner
) -> Activations:
    """Read every layer's output at the last prompt token: anchors and controls [questions, layers, width].

    Args:
        model, processor: of the multimodal model.
        pairs: the questions.
        batch_size: questions per forward pass; fewer after an out-of-memory error.
        runner: remembers how many questions fitted into memory.

    Raises:
        UserError: when an image cannot be opened, or a single question does not fit into memory.
    """
    sides = [[pair.prompt for pair in pairs], [pair.contrast for pair in pairs]]
    anchors, controls = (_read(model, processor, texts, pairs, batch_size, runner) for texts in sides)
    places = [tuple(TokenSpan(i, 0, len(text)) for i, text in enumerate(texts)) for texts in sides]
    return Activations(anchors, controls, places[0], places[1], tuple(sides[0]))


def _read(
    model: Any, processor: Any, texts: list[str], pairs: list[ImagePair], batch_size: int, runner: ShrinkingRunner
) -> Rows:
    """Each layer's output at the last token of each text: float32 [texts, layers, width]."""
    make_inputs, device = prompt_format_for(processor), next(model.parameters()).device
    processor.tokenizer.padding_side = "left"

    def read(numbers: list[int]) -> list[Rows]:
        images = [[open_image(pairs[number].image)] for number in numbers]
        batch = make_inputs(processor, [texts[number] for number in numbers], images, None).to(device)
        inputs = {k: v.to(model.dtype) if torch.is_floating_point(v) else v for k, v in batch.items()}
        with record_layers(model) as outputs, torch.inference_mode():
            model(**inputs, logits_to_keep=1)
        return list(torch.stack([output[:, -1] for output in outputs], dim=1).float().cpu().numpy())

    rows: list[Rows] = []
    for start in progress_bar(range(0, len(texts), batch_size), desc="images", leave=False):
        try:
            rows += runner.run(range(len(texts))[start : start + batch_size], read)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, "with one question at a time") from error
    return np.stack(rows)
