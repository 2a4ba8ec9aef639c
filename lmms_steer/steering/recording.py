"""What every decoder layer gives, while a model runs.

How long the residual is at each layer, for strengths that are relative to it (`scale=relative`).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.steering.anatomy import decoder_layers, image_token_ids
from lmms_steer.steering.positions import token_mask
from lmms_steer.steering.resolve import Norms


@contextmanager
def record_layers(model: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, each forward call appends every decoder layer's output [batch, positions, width], in order.

    Own hooks, as `output_hidden_states` gives the last layer after the final norm.
    """
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:  # noqa: ARG001
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(keep) for layer in decoder_layers(model)]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


TOKEN_KINDS = ("image", "text", "both", "last")


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
        for kind in TOKEN_KINDS:
            mask = token_mask(batch["input_ids"], batch.get("attention_mask"), image_ids, kind)
            counts[kind] = counts.get(kind, 0) + int(mask.sum())
            for layer, output in enumerate(outputs):
                norms = output.float().norm(dim=-1)
                sums[layer, kind] = sums.get((layer, kind), 0.0) + float(norms[mask.to(norms.device)].sum())
    layers = range(len(decoder_layers(model)))
    return {
        layer: {k: float(f"{sums[layer, k] / counts[k]:.6g}") for k in TOKEN_KINDS if counts.get(k)} for layer in layers
    }
