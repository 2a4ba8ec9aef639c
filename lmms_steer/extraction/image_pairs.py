"""Vectors from the multimodal model itself: pairs of questions that differ in the question or in the image.

    {"image": "kitchen.jpg", "prompt": "What is left of the pan?", "contrast": "What colour is the pan?"}

The anchors are read from `prompt`, the controls from `contrast`, or, with `--image_contrast`, from the same prompt with
another image. All methods use them like the tokens of sentences. To a method that pairs rows or holds them out by
sentence, the two rows of a line belong to one sentence.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmms_steer._util.code import is_built_in
from lmms_steer._util.json import json_lines, parse_json
from lmms_steer._util.progress import progress_bar
from lmms_steer.concepts import Concept, Pair
from lmms_steer.errors import UserError, first_line, reason
from lmms_steer.extraction.activations import Activations, Rows, out_of_memory
from lmms_steer.extraction.image_contrasts import contrast_image, other_places
from lmms_steer.extraction.job import ExtractionSettings
from lmms_steer.extraction.patches import PATCHES, read_patches
from lmms_steer.extraction.tokens import TokenSpan
from lmms_steer.models.batches import ShrinkingRunner
from lmms_steer.models.prompt_formats import without_placeholders
from lmms_steer.models.prompts import checked_batch, prompt_format_for
from lmms_steer.models.visuals import Visual, open_image
from lmms_steer.steering.anatomy import keeps_all_positions
from lmms_steer.steering.placeholders import hides_media, placeholders
from lmms_steer.steering.positions import ids_of, token_mask
from lmms_steer.steering.recording import record_layers

SAME_STATE = 1e-4
"""Largest difference, as a share of the norm, that counts as rounding between two readings of the same image."""


@dataclass(frozen=True, slots=True)
class ImageQuestion:
    """A question about an image.

    Attributes:
        text: the question.
        image: identifies what the model is shown: the hash of the image's file, and what is done with it.
        load: reads the image; an empty list for none.
    """

    text: str
    image: str
    load: Callable[[], Sequence[Visual]]


@dataclass(frozen=True, slots=True)
class ImagePair:
    """A question that the anchor is read from, and one that the control is read from."""

    anchor: ImageQuestion
    control: ImageQuestion


@dataclass(frozen=True, slots=True)
class ImagePairs:
    """The pairs of a file.

    Attributes:
        pairs: of the lines, in their order.
        shuffled: with an image contrast: the same with images of other questions. Empty without one, and where the
            exchange of images changes nothing: each pair of a prompt and an image is there as often as before, or
            the vision tower is read, which sees no prompts.
    """

    pairs: tuple[ImagePair, ...]
    shuffled: tuple[ImagePair, ...] = ()

    def concept(self, name: str) -> Concept:
        """The questions as a concept, so that its hash is in the provenance like the hash of sentences.

        What identifies an image takes the place of the anchor.
        """
        anchors = tuple(Pair(pair.anchor.image, pair.anchor.text) for pair in self.pairs)
        controls = tuple(Pair(pair.control.image, pair.control.text) for pair in self.pairs)
        return Concept(name, "contrasting questions about images", anchors, controls)


def read_image_pairs(path: Path, settings: ExtractionSettings) -> ImagePairs:
    """Read a JSONL file; image paths are relative to its folder.

    Args:
        path: of the file, with `image`, `prompt` and, without an image contrast, `contrast` in each line.
        settings: its `image_contrast`, `at` and `seed`.

    Raises:
        UserError: for a line that is not as expected, with its number; for an image that does not exist or cannot be
            read; for a contrast in which no two images differ; for the contrast `other` if the exchange of images
            changes nothing.
    """
    try:
        lines = json_lines(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the questions {str(path)!r}: {reason(error)}") from error
    anchors, contrasts = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            question, contrast = _read_line(line, path, number, settings.image_contrast)
            anchors.append(question)
            contrasts.append(contrast)
    if not anchors:
        raise UserError(f"{str(path)!r} contains no question")
    kind = settings.image_contrast
    if kind is None:
        return ImagePairs(
            tuple(ImagePair(q, replace(q, text=text)) for q, text in zip(anchors, contrasts, strict=True))
        )
    places = other_places([question.image for question in anchors], settings.seed)
    if places is None:
        raise UserError(f"{str(path)!r} has one image only: without a second one there is no control with other images")
    elsewhere = [
        replace(question, text=text.text) for text, question in zip(anchors, _at(anchors, places), strict=True)
    ]
    pairs = _contrasted(anchors, kind, settings.seed)
    if kind == "other" and _shown(anchors) == _shown([pair.control for pair in pairs]):
        raise UserError(
            f"{str(path)!r}: with other images the prompts are asked about the same images as before, so that"
            " --image_contrast other contrasts nothing: use another contrast, or different prompts"
        )
    if settings.at == PATCHES or _shown(anchors) == _shown(elsewhere):
        return ImagePairs(pairs)
    return ImagePairs(pairs, _contrasted(elsewhere, kind, settings.seed + 1))


def _shown(questions: Sequence[ImageQuestion]) -> Counter[tuple[str, str]]:
    """How often each prompt is asked about each image."""
    return Counter((question.text, question.image) for question in questions)


def _read_line(line: str, path: Path, number: int, kind: str | None) -> tuple[ImageQuestion, str]:
    where = f"{str(path)!r}, line {number}"
    keys = ("image", "prompt") if kind else ("image", "prompt", "contrast")
    try:
        row = parse_json(line)
        values = [row[key] for key in keys]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: expected {', '.join(keys[:-1])} and {keys[-1]} in JSON") from error
    if kind and "contrast" in row:
        raise UserError(f"{where}: the line has a contrasting question: leave that out, or --image_contrast {kind}")
    if not all(isinstance(value, str) and value.strip() for value in values):
        raise UserError(f"{where}: {', '.join(keys[:-1])} and {keys[-1]} must be strings")
    image = path.parent / values[0]
    if not image.is_file():
        raise UserError(f"{where}: no such image: {str(image)!r}")
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    return ImageQuestion(values[1], digest, lambda: [open_image(image)]), values[-1]


def _at(questions: Sequence[ImageQuestion], places: Sequence[int]) -> list[ImageQuestion]:
    return [questions[place] for place in places]


def _contrasted(questions: Sequence[ImageQuestion], kind: str, seed: int) -> tuple[ImagePair, ...]:
    """Each question with its image, and the same question with the contrast's."""
    places = other_places([question.image for question in questions], seed) if kind == "other" else None
    pairs = []
    for number, question in enumerate(questions):
        if kind == "other":
            other = questions[places[number]] if places else question
            pairs.append(ImagePair(question, replace(question, image=other.image, load=other.load)))
            continue

        def load(question: ImageQuestion = question, number: int = number) -> list[Visual]:
            return [
                shown
                for visual in question.load()
                for shown in contrast_image(kind, visual, np.random.default_rng((seed, number)))
            ]

        pairs.append(ImagePair(question, replace(question, image=f"{kind} {seed} {question.image}", load=load)))
    return tuple(pairs)


def read_image_pair_activations(
    model: Any,
    processor: Any,
    pairs: ImagePairs,
    settings: ExtractionSettings,
    batch_size: int,
    runner: ShrinkingRunner,
) -> Activations:
    """Read every layer's output at a prompt's tokens: anchors and controls [questions, layers, width].

    Args:
        model, processor: of the multimodal model.
        pairs: the questions.
        settings: its `image_contrast`, and its `at`: `last`: the last token of the prompt, where the model is about
            to answer; `image`, `text`, `both`: the mean over these tokens; `patches`: each patch in the vision tower,
            as the mean over the questions.
        batch_size: questions per forward pass; fewer after an out-of-memory error.
        runner: remembers how many questions fitted into memory.

    Raises:
        UserError: when an image cannot be opened, or a single question does not fit into memory; for tokens that the
            model's prompts do not have; for a prompt format of the user's own that pads on the right; for contrasting
            prompts or the image contrast `other` at image tokens that do not depend on the question.
    """
    at = settings.at
    if at not in ("last", PATCHES) and hides_media(model.config):
        raise UserError(
            f"--at {at}: the config of this {type(model).__name__} does not say which tokens are images: use --at last"
        )

    shape: tuple[int, int, int] | None = None

    def read(pairs: Sequence[ImagePair]) -> Activations:
        nonlocal shape
        sides = [[pair.anchor for pair in pairs], [pair.control for pair in pairs]]
        if at == PATCHES:
            means = [read_patches(model, partial(_inputs, model, processor, q), len(q), batch_size) for q in sides]
            shape = means[0].shape
            rows = [mean.reshape(1, shape[0], -1) for mean in means]
        else:
            rows = [_read(model, processor, questions, at, batch_size, runner) for questions in sides]
        anchors = tuple(TokenSpan(i, 0, len(question.text)) for i, question in enumerate(sides[0]))
        controls = tuple(TokenSpan(i, 0, len(question.text), question.text) for i, question in enumerate(sides[1]))
        texts = tuple(question.text for question in sides[0])
        return Activations(rows[0], rows[1], anchors, controls, texts, at=at, tower=shape)

    shuffled = pairs.shuffled
    prompts_differ = settings.image_contrast is None
    if at == "image" and (prompts_differ or shuffled) and _ignore_questions(model, processor, pairs, runner):
        if prompts_differ or settings.image_contrast == "other":
            contrast = "'contrast'" if prompts_differ else "--image_contrast other"
            raise UserError(
                f"--at image: in this {type(model).__name__} the image tokens do not depend on the question, so that"
                f" {contrast} contrasts nothing: use another contrast, or --at last"
            )
        shuffled = ()
    found = read(pairs.pairs)
    return replace(found, shuffled_images=read(shuffled)) if shuffled else found


def _ignore_questions(model: Any, processor: Any, pairs: ImagePairs, runner: ShrinkingRunner) -> bool:
    """Whether image tokens hold the same whatever is asked: they come first in the prompt of a causal model."""
    first = pairs.pairs[0].anchor
    texts = (question.text for pair in pairs.pairs for question in (pair.control, pair.anchor))
    other = next((text for text in texts if text != first.text), None)
    if other is None:
        return False
    rows = _read(model, processor, [first, replace(first, text=other)], "image", 1, runner)
    differences = np.linalg.norm(rows[0] - rows[1], axis=-1) / np.linalg.norm(rows[0], axis=-1)
    rounding = max(SAME_STATE, 4 * torch.finfo(model.dtype).eps)
    return bool((differences <= rounding).all())


def _read(
    model: Any, processor: Any, questions: list[ImageQuestion], at: str, batch_size: int, runner: ShrinkingRunner
) -> Rows:
    """Each layer's output at the wanted tokens of each question: float32 [questions, layers, width]."""
    media = placeholders(model.config)
    # all positions are computed, where only the last one's logits are wanted, too
    kept = 1 if at == "last" else keeps_all_positions(model)

    def read(numbers: list[int]) -> list[Rows]:
        inputs = _inputs(model, processor, questions, numbers)
        with record_layers(model) as outputs, torch.inference_mode():
            model(**inputs, logits_to_keep=kept)
        if at == "last":
            rows = torch.stack([output[:, -1] for output in outputs], dim=1).float()
        else:
            mask = token_mask(ids_of(inputs), inputs.get("attention_mask"), media, at)
            if not bool(mask.any(1).all()):
                raise UserError(f"--at {at}: a prompt has no such tokens")
            rows = torch.stack([_mean(output, mask) for output in outputs], dim=1)
        return list(rows.cpu().numpy())

    rows: list[Rows] = []
    for start in progress_bar(range(0, len(questions), batch_size), desc="images", leave=False):
        try:
            rows += runner.run(range(len(questions))[start : start + batch_size], read)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, "with one question at a time") from error
    return np.stack(rows)


def _inputs(model: Any, processor: Any, questions: Sequence[ImageQuestion], numbers: Sequence[int]) -> dict[str, Any]:
    """Some of the questions as the model takes them."""
    prompt_format, device = prompt_format_for(processor), next(model.parameters()).device
    processor.tokenizer.padding_side = "left"
    images = [list(questions[number].load()) for number in numbers]
    # prompt formats leave image placeholders in a text that is shown without an image
    texts = [without_placeholders(processor, questions[number].text) for number in numbers]
    try:
        batch = prompt_format(processor, texts, images)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"this {type(model).__name__} cannot be asked these questions: {first_line(error)}") from error
    if not is_built_in(prompt_format.function):
        # the last position is read, which must not be padding
        batch = checked_batch(batch, prompt_format.name, len(numbers), scored=False, padded_left=True)
    batch = batch.to(device)
    return {k: v.to(model.dtype) if torch.is_floating_point(v) else v for k, v in batch.items()}


def _mean(output: Tensor, mask: Tensor) -> Tensor:
    weights = mask.to(output.device).float()
    return (output.float() * weights[:, :, None]).sum(1) / weights.sum(1, keepdim=True)
