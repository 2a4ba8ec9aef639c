"""Prompts of this package's own, on which something about a model is measured once, whatever it is evaluated on.

They are 16 generated scenes with a question each; for a text model, 16 sentences.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import nn

from lmms_steer._util.code import is_built_in
from lmms_steer.errors import UserError
from lmms_steer.models.prompts import PromptFormat, checked_batch, prompt_format_for, prompt_formats
from lmms_steer.steering.anatomy import unwrap
from lmms_steer.steering.hooks import is_steered
from lmms_steer.steering.support import has_encoder

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
"""The prompts of a text model."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model without dropout, as in its evaluations, and leave its modules as they were."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@dataclass(frozen=True, slots=True)
class OwnPrompts:
    """The prompts, as a model takes them.

    Attributes:
        batches: one prompt each.
        facts: what the prompts depend on, for `cache_key`.
        described: what they are, for the user.
    """

    batches: Iterable[dict[str, Any]]
    facts: list[Any]
    described: str


def own_prompts(model: Any, processor: Any, prompt_format: PromptFormat | None, text_only: bool) -> OwnPrompts:
    """The prompts for a model.

    Args:
        model: unsteered.
        processor: the model's; its tokenizer if `text_only`.
        prompt_format: by default the one that matches the processor.
        text_only: whether the model is evaluated on text without images.

    Raises:
        UserError: for a missing processor; for an encoder-decoder, whose decoder sees nothing of a prompt; for a model
            that is steered at the moment, because what is measured is kept for the weights.
    """
    if processor is None:
        raise UserError(f"a {type(model).__name__} is measured with its processor, a text model with its tokenizer")
    if is_steered(unwrap(model)):
        raise UserError("what is measured here is that of the unsteered model: measure it outside of the steer block")
    if has_encoder(model.config):
        raise UserError(
            f"a {type(model).__name__} is an encoder-decoder, and the prompt of its decoder is little more than a start"
            " token, on which nothing can be measured: give alpha as a number, with scale=raw or scale=token"
        )
    if text_only:
        sentences = [dict(processor(sentence, return_tensors="pt").to(model.device)) for sentence in SENTENCES]
        facts = [model.config.to_dict(), "text", [batch["input_ids"].tolist() for batch in sentences]]
        return OwnPrompts(sentences, facts, f"{len(SENTENCES)} sentences")
    prompt_format = prompt_format or prompt_format_for(processor)
    scenes = _scene_batches(model, processor, prompt_format)
    return OwnPrompts(scenes, _facts_about_images(model, processor, prompt_format), f"{SCENES} drawn scenes")


def sees_images(processor: Any) -> bool:
    """Whether a processor takes images."""
    return getattr(processor, "image_processor", None) is not None


def _facts_about_images(model: Any, processor: Any, prompt_format: PromptFormat) -> list[Any]:
    images = getattr(processor, "image_processor", None)
    image_settings = images.to_dict() if images is not None else None
    facts = [model.config.to_dict(), image_settings, getattr(processor, "chat_template", None)]
    if not _is_default(prompt_format, processor):
        facts.append(prompt_format.name)
    code = prompt_formats.code(prompt_format.name)
    return facts if code is None else [*facts, code]


def cache_key(model: Any, facts: list[Any]) -> str:
    """A hash of everything that the norms depend on, because a checkpoint's name does not fix its weights."""
    adapters = _adapters_in_use(model)
    # old caches of models without adapters stay valid
    facts = [*facts, adapters] if adapters else facts
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for weights in model.parameters():
        # a sample is enough, as training changes all weights; offloaded weights are not read from the disk
        if weights.device.type != "meta":
            flat = weights.detach().reshape(-1)
            digest.update(flat[:: max(1, flat.numel() // SAMPLED)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:8]


def _adapters_in_use(model: Any) -> list[list[Any]]:
    """The adapters of PEFT that act in a model: those that are switched off have weights too."""
    found = []
    for name, module in model.named_modules():
        disabled, active = getattr(module, "disable_adapters", None), getattr(module, "active_adapters", None)
        if isinstance(disabled, bool) and isinstance(active, list):
            found.append([name, [] if disabled else active, getattr(module, "merged_adapters", [])])
    return found


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
        batch = prompt_format(processor, [QUESTIONS[number % len(QUESTIONS)]], [[scene]])
        if not is_built_in(prompt_format.function):
            batch = checked_batch(batch, prompt_format.name, 1, scored=False, padded_left=True)
        yield _on_device(batch, model)


def _on_device(batch: Any, model: Any) -> dict[str, Any]:
    moved = batch.to(model.device)
    return {k: v.to(model.dtype) if torch.is_floating_point(v) else v for k, v in moved.items()}
