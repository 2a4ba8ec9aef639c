"""Record the outputs of all decoder layers while a model runs, and measure their norms.

The mean norms of the residual are the unit of strengths with `scale=relative`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.steering.anatomy import decoder_layers, keeps_all_positions
from lmms_steer.steering.facts import Norms
from lmms_steer.steering.placeholders import placeholders
from lmms_steer.steering.positions import ids_of, token_mask
from lmms_steer.steering.site_tensor import register_hook
from lmms_steer.steering.sites import sites

TOKEN_KINDS = ("image", "text", "both", "last")
"""The kinds of tokens whose norms are measured."""


@contextmanager
def record_layers(model: nn.Module) -> Iterator[list[Tensor]]:
    """Record layer outputs: each forward call in the block appends one [batch, positions, width] for every layer.

    It uses its own hooks, because `output_hidden_states` returns the last layer's output after the final norm.
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


@contextmanager
def record_site(model: nn.Module, site: str, layer: int, before: bool = False) -> Iterator[list[Tensor]]:
    """Record the tensor of a site: each forward call in the block appends [batch, positions, width].

    Args:
        model: the model.
        site: a name of `lmms_steer.steering.sites`.
        layer: 0-based.
        before: whether it is recorded before the hooks that are there act. By default they act first, so that a
            steered model's tensor is the steered one.

    Raises:
        UserError: for a layer without such a module.
    """
    seen: list[Tensor] = []

    def keep(value: Tensor) -> None:
        seen.append(value)

    handle = register_hook(sites.get(site), decoder_layers(model), layer, keep, prepend=before)
    try:
        yield seen
    finally:
        handle.remove()


@torch.inference_mode()
def residual_norms(model: nn.Module, batches: Iterable[dict[str, Any]], skipped: int = 0) -> Norms:
    """The mean Euclidean norm of each layer's output, in float32, over the tokens of each kind in all batches.

    Args:
        model: unsteered.
        batches: the processor's outputs, left-padded.
        skipped: positions at the beginning of every batch that do not count.

    Returns:
        layer ▸ kind of tokens ▸ mean norm, to six digits. A kind that does not occur is left out (image tokens of a
        text model).
    """
    media = placeholders(model.config)
    kept = keeps_all_positions(model)
    sums: dict[tuple[int, str], float] = {}
    counts: dict[str, int] = {}
    for batch in batches:
        with record_layers(model) as outputs:
            model(**batch, use_cache=False, logits_to_keep=kept)
        for kind in TOKEN_KINDS:
            mask = token_mask(ids_of(batch), batch.get("attention_mask"), media, kind)[:, skipped:]
            counts[kind] = counts.get(kind, 0) + int(mask.sum())
            for layer, output in enumerate(outputs):
                norms = output[:, skipped:].float().norm(dim=-1)
                sums[layer, kind] = sums.get((layer, kind), 0.0) + float(norms[mask.to(norms.device)].sum())
    layers = range(len(decoder_layers(model)))
    return {
        layer: {k: float(f"{sums[layer, k] / counts[k]:.6g}") for k in TOKEN_KINDS if counts.get(k)} for layer in layers
    }
