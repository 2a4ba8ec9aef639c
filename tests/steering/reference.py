"""A hand-written reference for steering: no cache, one row of positions computed from the prompt's length."""

from typing import Any

import torch
from torch import Tensor

from lmms_steer import Intervention
from lmms_steer.steering.operations import ScaledVector
from lmms_steer.steering.resolved import ResolvedSpec
from lmms_steer.steering.scaled_vectors import active_layers
from tests.helpers.models import vectors

LAYER, ALPHA = 1, 2.0
V = vectors(scale=0.5)
IMAGE_INPUTS = ("pixel_values", "pixel_attention_mask", "image_grid_thw", "image_sizes")


def line(tokens: str, phase: str, alpha: float = ALPHA) -> str:
    return f"vector=v,layer={LAYER},alpha={alpha},tokens={tokens},phase={phase}"


def active_parts(resolved: ResolvedSpec) -> list[tuple[Intervention, ScaledVector]]:
    """What a model with images steers, each with one layer and one strength."""
    return [part for layer in active_layers(resolved, ("image",)) for part in layer.parts]


def positions(ids: Tensor, real: Tensor, length: int, tokens: str, phase: str, image_id: int, special: Any) -> Tensor:
    """Which positions of whole sequences are steered, written with loops and without the package."""
    chosen = torch.zeros_like(ids, dtype=torch.bool)
    for row in range(len(ids)):
        here = [c for c in range(length) if real[row, c]]
        image = [c for c in here if ids[row, c] == image_id]
        text = [c for c in here if c not in image]
        plain = [c for c in text if int(ids[row, c]) not in special]
        prompt = {
            "image": image,
            "text": text,
            "both": here,
            "last": here[-1:],
            "text_paper": plain[:-1],
            "both_paper": plain[:-1] + image,
        }[tokens]
        after = [] if tokens == "image" else list(range(length, ids.shape[1]))
        for column in (prompt if phase != "decode" else []) + (after if phase != "prefill" else []):
            chosen[row, column] = True
    return chosen


@torch.no_grad()
def logits(
    model: Any, batch: dict[str, Any], sequences: Tensor, tokens: str, phase: str, special: Any, copies: int = 1
) -> Tensor:
    """The logits of every generated token, [sequences, generated, vocabulary], from one uncached pass.

    Args:
        model: unsteered.
        batch: the prompts.
        sequences: prompts and what was generated, `copies` rows for each prompt.
        tokens, phase: of the spec.
        special: ids of special tokens.
        copies: sequences of a prompt.
    """
    length = batch["input_ids"].shape[1]
    real = torch.ones_like(sequences)
    real[:, :length] = batch["attention_mask"].repeat_interleave(copies, 0)
    image_id = getattr(model.config, "image_token_id", -1)
    chosen = positions(sequences, real, length, tokens, phase, image_id, special)
    # a generated image token would be replaced by features that do not exist
    images = {k: v.repeat_interleave(copies, 0) for k, v in batch.items() if k in IMAGE_INPUTS}

    def add(module: Any, args: Any, output: Any) -> Tensor:
        return torch.where(chosen.unsqueeze(-1), output + ALPHA * torch.from_numpy(V[LAYER]), output)

    handle = model.get_decoder().layers[LAYER].register_forward_hook(add)
    try:
        all_logits: Tensor = model(input_ids=sequences, attention_mask=real, use_cache=False, **images).logits
    finally:
        handle.remove()
    return all_logits[:, length - 1 : -1].float()
