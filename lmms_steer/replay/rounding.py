"""How far rounding alone moves a model's logits: what a replay is compared with.

A replay and a full forward pass compute the same numbers in another order, so they round differently. How far apart
that may move the logits depends on the dtype, on the model and on the cell, so it is measured: the same forward pass
runs once more, and the output of every module of the decoder is rounded once more in a random direction (Monte Carlo
arithmetic: Parker 1997, "Monte Carlo Arithmetic", UCLA CSD-970002). To first order in the rounding errors, the shift of
the logits is then a draw from the same distribution as the difference between two correct ways to compute them.
"""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.steering.anatomy import decoder_layers, final_norm
from lmms_steer.steering.eager import run_eagerly

MAX_NOISE_RATIO = 3.0
"""How many times as far as one random rounding a replay's logits may lie from the hooked ones, per row.

Measured on the models of `tests/replay/test_agreement.py` with ten seeds, and with matrix products summed in another
order for every number of rows: correct replays at 0 to 1.7; planted faults at 3.4 and more in bfloat16, 70,000 and more
in float32."""

SPARE = 2**16
"""How many different parts of the pool of random directions a module's output can get."""


@contextmanager
def random_rounding(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Round the output of every module of the decoder once more, in a random direction, within the context.

    The relative error is uniform within the unit roundoff of the output's dtype. A sum over n inputs adds sqrt(n) unit
    roundoffs of float32, in which products are summed (Higham and Mary 2019, "A new approach to probabilistic rounding
    error analysis", SIAM J. Sci. Comput. 41).

    Args:
        model: the model.
        seed: of the directions.
    """
    offsets = random.Random(seed)
    pools: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def draw(like: Tensor) -> Tensor:
        # drawing anew for every module costs more than the forward pass: each takes another part of one pool
        kind, needed = (like.device, like.dtype), like.numel() + SPARE
        if kind not in pools or pools[kind].numel() < needed:
            generator = torch.Generator(like.device).manual_seed(seed)
            pools[kind] = (torch.rand(needed, generator=generator, device=like.device) * 2 - 1).to(like.dtype)
        offset = offsets.randrange(SPARE)
        return pools[kind][offset : offset + like.numel()].view(like.shape)

    def perturb(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:  # noqa: ARG001  the hook's interface
        first = output[0] if isinstance(output, tuple) else output
        if not isinstance(first, Tensor) or not first.is_floating_point():
            return None
        roundoff = torch.finfo(first.dtype).eps / 2
        summed = math.sqrt(getattr(module, "in_features", 1)) * torch.finfo(torch.float32).eps / 2
        moved = torch.addcmul(first, first, draw(first), value=roundoff + summed)
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    layers = decoder_layers(model)
    inner = [module for layer in layers for module in layer.modules() if not any(module.children())]
    last = [final_norm(model), model.get_output_embeddings()]  # type: ignore[operator, union-attr]
    # compiled code would not run the hooks
    stop_running_eagerly = run_eagerly(model)
    handles = [module.register_forward_hook(perturb) for module in dict.fromkeys([*inner, *layers, *last])]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        stop_running_eagerly()


def noise_ratio(ours: Tensor, theirs: Tensor, rounded: Tensor) -> float:
    """How many times as far as a random rounding some logits lie from others.

    Args:
        ours: logits to be checked, [..., vocabulary].
        theirs: the model's own.
        rounded: the model's own, computed under `random_rounding`.

    Returns:
        the largest ratio of a row: the root mean square over the vocabulary of `ours - theirs`, divided by that of
        `rounded - theirs`. One draw says little about one row, so a row's noise counts as at least the mean of all.
        Infinite where logits are not finite.
    """
    off, noise = ((other.float() - theirs.float()).square().mean(-1) for other in (ours, rounded))
    ratios = torch.where(off == 0, 0.0, (off / noise.clamp_min(noise.mean())).sqrt())
    return float(ratios.nan_to_num(math.inf, math.inf).max())
