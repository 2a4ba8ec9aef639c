"""How long the residual is at each layer, for strengths that are relative to it (`scale=relative`)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from lmms_steer.intervention.anatomy import decoder_layers, image_token_ids
from lmms_steer.intervention.masks import token_mask
from lmms_steer.intervention.recording import record_layers
from lmms_steer.resolved import Norms

MEASURED = ("image", "text", "both", "last")


@torch.inference_mode()
def residual_norms(model: nn.Module, batches: Iterable[dict[str, Any]]) -> Norms:
    """The mean Euclidean norm of each layer's output, in float32, over the tokens of each kind in all batches.

    Args:
        model: unsteered.
        batches: inputs as the processor gives them, left-padded.

    Returns:
        layer ▸ kind of tokens ▸ mean; a kind that does not occur (image tokens of a text model) is left out.
    """
    image_ids = image_token_ids(model.config)
    sums: dict[tuple[int, str], float] = {}
    counts: dict[str, int] = {}
    for batch in batches:
        with record_layers(model) as outputs:
            model(**batch, use_cache=False, logits_to_keep=1)
        for kind in MEASURED:
            mask = token_mask(batch["input_ids"], batch.get("attention_mask"), image_ids, kind)
            counts[kind] = counts.get(kind, 0) + int(mask.sum())
            for layer, output in enumerate(outputs):
                norms = output.float().norm(dim=-1)
                sums[layer, kind] = sums.get((layer, kind), 0.0) + float(norms[mask.to(norms.device)].sum())
    layers = range(len(decoder_layers(model)))
    return {
        layer: {k: float(f"{sums[layer, k] / counts[k]:.6g}") for k in MEASURED if counts.get(k)} for layer in layers
    }
