"""The residual's norms of a model, measured once on pictures of our own and kept, for `scale=relative`."""

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
from lmms_steer.models.prompts import prompt_format_for
from lmms_steer.steering.recording import residual_norms
from lmms_steer.steering.resolve import Norms, ResolvedSpec
from lmms_steer.vectors import store
from lmms_steer.vectors.backbones import short_name

SCENES, SIDE = 16, 448
SAMPLED = 16
"""Numbers of each weight by which checkpoints are told apart."""
QUESTIONS = ("What is in the image?", "How many things are there?", "Which thing is left of the others?")


def with_residual_norms(resolved: ResolvedSpec, model: Any, processor: Any, name: str) -> ResolvedSpec:
    """The spec with the model's norms, where it needs them: read from the user's cache, or measured and kept there.

    They are of 16 drawn scenes with a question each, so that they do not depend on the benchmark.

    Raises:
        UserError: for a file of norms that is damaged.
    """
    if not resolved.relative:
        return resolved
    path = store.cache_dir() / "norms" / f"{short_name(name)}-{_key(model, processor)}.yaml"
    if path.is_file():
        try:
            norms: Norms = {
                int(k): {str(t): float(n) for t, n in v.items()} for k, v in read_yaml(path).typed().items()
            }
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"the norms in {str(path)!r} are damaged: {first_line(error)}") from error
    else:
        norms = residual_norms(model, _drawn_batches(model, processor))
        head = f"# mean norm of the residual of {name}, layer by layer, on {SCENES} drawn scenes\n"
        write_atomically(path, (head + yaml.safe_dump({k: dict(v) for k, v in norms.items()})).encode())
    return replace(resolved, norms=norms)


def _key(model: Any, processor: Any) -> str:
    """Of all that norms depend on: a name may stand for other weights tomorrow, or at another revision."""
    images = getattr(processor, "image_processor", None)
    shown = images.to_dict() if images is not None else None
    facts = [model.config.to_dict(), shown, getattr(processor, "chat_template", None)]
    found = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for weights in model.parameters():
        # training changes them all; of what is on a disk nothing is read
        if weights.device.type != "meta":
            flat = weights.detach().reshape(-1)
            found.update(flat[:: max(1, flat.numel() // SAMPLED)].float().cpu().numpy().tobytes())
    return found.hexdigest()[:8]


def _drawn_batches(model: Any, processor: Any) -> Iterator[dict[str, Any]]:
    from lmms_steer.tiny_world.scenes import STYLES, render, sample_scene

    rng = random.Random(0)
    formatted = prompt_format_for(processor)
    for number in range(SCENES):
        drawn = render(sample_scene(rng), STYLES["plain"], number)
        scene = Image.fromarray(drawn).resize((SIDE, SIDE))
        batch = formatted(processor, [QUESTIONS[number % len(QUESTIONS)]], [[scene]], None).to(model.device)
        yield {k: v.to(model.dtype) if torch.is_floating_point(v) else v for k, v in batch.items()}
