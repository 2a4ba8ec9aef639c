"""Measure a model's residual norms once, on drawn images or fixed sentences, and cache them for `scale=relative`."""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
import yaml
from PIL import Image

from lmms_steer._util.io import cache_dir, write_atomically
from lmms_steer._util.yaml import read_yaml
from lmms_steer.errors import UserError, first_line
from lmms_steer.models.prompts import PromptFormat, prompt_format_for
from lmms_steer.steering.anatomy import model_facts, remember_norms
from lmms_steer.steering.placeholders import placeholders
from lmms_steer.steering.recording import residual_norms
from lmms_steer.steering.resolve import Norms, ResolvedSpec
from lmms_steer.vectors.backbones import short_name

SCENES = 16
SIDE = 448
"""Width and height of a scene, in pixels."""
SAMPLED = 16
"""About how many numbers of each weight go into the cache key that distinguishes checkpoints."""
QUESTIONS = ("What is in the image?", "How many things are there?", "Which thing is left of the others?")
SENTENCES = (
    "The old bridge over the river was closed for repairs last winter, and nobody has used it since.",
    "She asked whether the train to the coast would leave before noon or after it.",
    "Two of the three letters had already been answered when the office opened again.",
    "Question: Which of these metals is liquid at room temperature? Answer: mercury.",
    "Most birds return to the same place every year, although they cross a whole continent.",
    "The recipe calls for a cup of flour, two eggs and a little salt.",
    "He wrote that the new method is faster than the old one, but needs more memory.",
    "If the door is locked, the key is under the stone beside the stairs.",
    "def mean(values): return sum(values) / len(values)",
    "The committee will meet on Monday to discuss the budget for the coming year.",
    "Rain fell for most of the night, and by morning the lower fields were under water.",
    "In 1903 the first machine heavier than air flew for twelve seconds.",
    "Could you tell me how far it is from the station to the museum?",
    "The patient was given the medicine twice a day and recovered within a week.",
    "They had lived in the small town for years without meeting their neighbours.",
    "A triangle with sides of length three, four and five has a right angle.",
)
"""What a text model's norms are measured on."""


def measure_norms(model: Any, processor: Any, prompt_format: PromptFormat | None = None) -> Norms:
    """Measure a loaded model's residual norms, so that `steer` accepts `scale=relative` for it.

    They are read from the user's cache if the same weights were measured before. Measure again after changing weights.

    Args:
        model: unsteered.
        processor: a multimodal model's processor, a text model's tokenizer.
        prompt_format: the format of a multimodal model's prompts; by default the one that matches the processor.

    Returns:
        layer ▸ kind of tokens ▸ mean norm. A text model is measured on 16 sentences without their first position: in
        many models it attracts the attention of all others, and its norm is a hundred times theirs.

    Raises:
        UserError: for a multimodal model's tokenizer, which cannot show it images.
    """
    text_only = not _sees_images(processor)
    if text_only and placeholders(model.config).image:
        raise UserError(
            f"measure_norms: a {type(model).__name__} takes images, so pass its processor and not a"
            f" {type(processor).__name__}"
        )
    norms = _cached_norms(model, processor, model_facts(model).name, prompt_format, text_only)
    remember_norms(model, norms)
    return norms


def with_residual_norms(
    resolved: ResolvedSpec,
    model: Any,
    processor: Any,
    name: str,
    prompt_format: PromptFormat | None = None,
    text_only: bool = False,
) -> ResolvedSpec:
    """The spec with the model's residual norms if it needs them, from the user's cache or measured and cached.

    They are measured on 16 generated scenes with one question each, or on 16 sentences, so that they do not depend on
    the benchmark.

    Args:
        resolved: a spec; returned unchanged if no strength is relative.
        model: unsteered.
        processor: the model's; its tokenizer if `text_only`.
        name: the checkpoint's, for the name of the file.
        prompt_format: the format of the prompts; by default the one that matches the processor.
        text_only: whether the model is evaluated on text without images.

    Raises:
        UserError: for a damaged file of norms.
    """
    if not resolved.relative:
        return resolved
    if not _sees_images(processor):
        text_only, processor = True, getattr(processor, "tokenizer", processor)
    return replace(resolved, norms=_cached_norms(model, processor, name, prompt_format, text_only))


def _cached_norms(model: Any, processor: Any, name: str, prompt_format: PromptFormat | None, text_only: bool) -> Norms:
    batches: Iterable[dict[str, Any]]
    if text_only:
        batches = sentences = [
            dict(processor(sentence, return_tensors="pt").to(model.device)) for sentence in SENTENCES
        ]
        facts = [model.config.to_dict(), "text", [batch["input_ids"].tolist() for batch in sentences]]
        # the first position is left out: see `measure_norms`
        skipped, measured_on = 1, f"{len(SENTENCES)} sentences, without their first position"
    else:
        prompt_format = prompt_format or prompt_format_for(processor)
        batches = _scene_batches(model, processor, prompt_format)
        facts = _facts_about_images(model, processor, prompt_format)
        skipped, measured_on = 0, f"{SCENES} drawn scenes"
    path = cache_dir() / "norms" / f"{short_name(name)}-{_cache_key(model, facts)}.yaml"
    if path.is_file():
        return _read_norms(path)
    norms = residual_norms(model, batches, skipped)
    header = f"# mean norm of the residual of {name}, layer by layer, on {measured_on}\n"
    write_atomically(path, (header + yaml.safe_dump({k: dict(v) for k, v in norms.items()})).encode())
    return norms


def _read_norms(path: Any) -> Norms:
    try:
        return {int(k): {str(t): float(n) for t, n in v.items()} for k, v in read_yaml(path).typed().items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"cannot read the residual norms in {str(path)!r}: {first_line(error)}; delete it to measure again"
        ) from error


def _sees_images(processor: Any) -> bool:
    return getattr(processor, "image_processor", None) is not None


def _facts_about_images(model: Any, processor: Any, prompt_format: PromptFormat) -> list[Any]:
    images = getattr(processor, "image_processor", None)
    image_settings = images.to_dict() if images is not None else None
    facts = [model.config.to_dict(), image_settings, getattr(processor, "chat_template", None)]
    return facts if _is_default(prompt_format, processor) else [*facts, prompt_format.name]


def _cache_key(model: Any, facts: list[Any]) -> str:
    """A hash of everything that the norms depend on, because a checkpoint's name does not fix its weights."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for weights in model.parameters():
        # a sample is enough, as training changes all weights; offloaded weights are not read from the disk
        if weights.device.type != "meta":
            flat = weights.detach().reshape(-1)
            digest.update(flat[:: max(1, flat.numel() // SAMPLED)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def _is_default(prompt_format: PromptFormat, processor: Any) -> bool:
    """Whether this built-in format is the one that a processor gets; old caches do not name it."""
    try:
        return prompt_format == prompt_format_for(processor)
    except UserError:
        return False


def _scene_batches(model: Any, processor: Any, prompt_format: PromptFormat) -> Iterator[dict[str, Any]]:
    from lmms_steer.tiny_world.scenes import STYLES, render, sample_scene

    rng = random.Random(0)
    for number in range(SCENES):
        pixels = render(sample_scene(rng), STYLES["plain"], number)
        scene = Image.fromarray(pixels).resize((SIDE, SIDE))
        yield _on_device(prompt_format(processor, [QUESTIONS[number % len(QUESTIONS)]], [[scene]]), model)


def _on_device(batch: Any, model: Any) -> dict[str, Any]:
    moved = batch.to(model.device)
    return {k: v.to(model.dtype) if torch.is_floating_point(v) else v for k, v in moved.items()}
