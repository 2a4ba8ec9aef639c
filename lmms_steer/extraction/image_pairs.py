"""Vectors from the MLLM itself: pairs of questions about a picture, one about the concept and one not.

    {"image": "kitchen.jpg", "prompt": "What is left of the pan?", "contrast": "What colour is the pan?"}

The rows are read at the last token of the prompt, where the model is about to answer: the anchors from `prompt`, the
controls from `contrast`. All methods take them as they take the tokens of sentences; both rows of a line are one
sentence to a method that pairs or holds out by sentence.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from lmms_steer.concepts import Concept, Pair
from lmms_steer.errors import UserError, first_line
from lmms_steer.extraction.activations import Activations, Rows
from lmms_steer.extraction.tokens import TokenSpan
from lmms_steer.models.prompts import prompt_format_for
from lmms_steer.steering.recording import record_layers


@dataclass(frozen=True, slots=True)
class ImagePair:
    """One line of a file of questions."""

    image: Path
    prompt: str
    contrast: str


def read_image_pairs(path: Path) -> list[ImagePair]:
    """The lines of a JSONL file; pictures are looked for beside it.

    Raises:
        UserError: with the line's number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the questions {str(path)!r}: {first_line(error)}") from error
    asked = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            values = [row[key] for key in ("image", "prompt", "contrast")]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{str(path)!r}, line {number}: expected image, prompt and contrast in JSON") from error
        if not all(isinstance(value, str) and value.strip() for value in values):
            raise UserError(f"{str(path)!r}, line {number}: image, prompt and contrast must be texts")
        picture = path.parent / values[0]
        if not picture.is_file():
            raise UserError(f"{str(path)!r}, line {number}: there is no picture {str(picture)!r}")
        asked.append(ImagePair(picture, values[1], values[2]))
    if not asked:
        raise UserError(f"{str(path)!r} holds no question")
    return asked


def image_pair_concept(name: str, asked: list[ImagePair]) -> Concept:
    """The questions under a concept's name, so that their hash stands in the provenance as sentences' does."""
    pairs = []
    for question in asked:
        picture = hashlib.sha256(question.image.read_bytes()).hexdigest()
        pairs.append((Pair(picture, question.prompt), Pair(picture, question.contrast)))
    return Concept(name, "contrasting questions about pictures", *(tuple(side) for side in zip(*pairs, strict=True)))


def read_image_pair_activations(model: Any, processor: Any, asked: list[ImagePair], batch_size: int) -> Activations:
    """Rows at the last prompt token, of every layer: anchors and controls [questions, layers, width].

    Raises:
        UserError: when a picture cannot be opened.
    """
    sides = [[question.prompt for question in asked], [question.contrast for question in asked]]
    rows = [_read(model, processor, texts, asked, batch_size) for texts in sides]
    places = [tuple(TokenSpan(i, 0, len(text)) for i, text in enumerate(texts)) for texts in sides]
    return Activations(rows[0], rows[1], places[0], places[1], tuple(sides[0]))


def _read(model: Any, processor: Any, texts: list[str], asked: list[ImagePair], batch_size: int) -> Rows:
    formatted, device = prompt_format_for(processor), next(model.parameters()).device
    processor.tokenizer.padding_side = "left"
    rows = []
    for start in tqdm(range(0, len(texts), batch_size), desc="pictures", disable=None, leave=False):
        images = [[_opened(question.image)] for question in asked[start : start + batch_size]]
        batch = formatted(processor, texts[start : start + batch_size], images, None).to(device)
        inputs = {k: v.to(model.dtype) if torch.is_floating_point(v) else v for k, v in batch.items()}
        with record_layers(model) as outputs, torch.inference_mode():
            model(**inputs, logits_to_keep=1)
        rows.append(torch.stack([output[:, -1] for output in outputs], dim=1).float().cpu().numpy())
    return np.concatenate(rows)


def _opened(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return picture.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot open the picture {str(path)!r}: {first_line(error)}") from error
