"""Measure a model's residual norms once, on generated images, and cache them for `scale=relative`."""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import yaml
from PIL import Image

from lmms_steer._util.io import write_atomically
from lmms_steer._util.yaml import read_yaml
from lmms_steer.errors import UserError, first_line
from lmms_steer.models.prompts import PromptFormat, prompt_format_for
from lmms_steer.steering.recording import residual_norms
from lmms_steer.steering.resolve import Norms, ResolvedSpec
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import short_name

SCENES = 16
SIDE = 448
"""Width and height of a scene, in pixels."""
SAMPLED = 16
"""About how many numbers of each weight go into the cache key that distinguishes checkpoints."""
QUESTIONS = ("What is in the image?", "How many things are there?", "Which thing is left of the others?")


def with_residual_norms(
    resolved: ResolvedSpec, model: Any, processor: Any, name: str, prompt_format: PromptFormat | None = None
) -> ResolvedSpec:
    """The spec with the model's residual norms if it needs them, from the user's cache or measured and cached.

    They are measured on 16 generated scenes with one question each, so that they do not depend on the benchmark.

    Args:
        resolved: a spec; returned unchanged if no strength is relative.
        model: unsteered.
        processor: the model's.
        name: the checkpoint's, for the name of the file.
        prompt_format: the format of the prompts; by default the one that matches the processor.

    Raises:
        UserError: for a damaged file of norms.
    """
    if not resolved.relative:
        return resolved
    prompt_format = prompt_format or prompt_format_for(processor)
    path = store.cache_dir() / "norms" / f"{short_name(name)}-{_cache_key(model, processor, prompt_format)}.yaml"
    if path.is_file():
        try:
            norms: Norms = {
                int(k): {str(t): float(n) for t, n in v.items()} for k, v in read_yaml(path).typed().items()
            }
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"cannot read the residual norms in {str(path)!r}: {first_line(error)}; delete it to measure again"
            ) from error
    else:
        norms = residual_norms(model, _scene_batches(model, processor, prompt_format))
        header = f"# mean norm of the residual of {name}, layer by layer, on {SCENES} drawn scenes\n"
        write_atomically(path, (header + yaml.safe_dump({k: dict(v) for k, v in norms.items()})).encode())
    return replace(resolved, norms=norms)


def _cache_key(model: Any, processor: Any, prompt_format: PromptFormat) -> str:
    """A hash of everything that the norms depend on, because a checkpoint's name does not fix its weights."""
    images = getattr(processor, "image_processor", None)
    image_settings = images.to_dict() if images is not None else None
    facts = [model.config.to_dict(), image_settings, getattr(processor, "chat_template", None)]
    if not _is_default(prompt_format, processor):
        facts.append(prompt_format.name)
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
        batch = prompt_format(processor, [QUESTIONS[number % len(QUESTIONS)]], [[scene]]).to(model.device)
        yield {k: v.to(model.dtype) if torch.is_floating_point(v) else v for k, v in batch.items()}
