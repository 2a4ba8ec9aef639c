"""The logits that layers below the last one would give, read while the model runs."""

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.errors import UserError
from lmms_steer.steering.anatomy import decoder_layers, unwrap

_READ_FROM = 25 / 32
"""Where VISTA begins to read in Llama: block 25 of 32; it reads up to the last but one."""


def read_layers(typed: str, n_layers: int) -> range:
    """The decoder blocks of `FIRST-LAST` or `LAYER`, counted from 0; by default VISTA's share of the depth.

    Raises:
        UserError: for another text, or blocks that the model does not have.
    """
    if not typed:
        last = max(n_layers - 2, 0)
        return range(min(round(_READ_FROM * n_layers), last), last + 1)
    match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", typed)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not first <= last < n_layers:
        raise UserError(
            f"contrast_layers={typed}: expected FIRST-LAST or one layer, of the model's layers 0-{n_layers - 1}"
        )
    return range(first, last + 1)


class EarlyLayers:
    """Reads the outputs of some decoder blocks, steered where they are.

    Args:
        layers: the blocks, counted from 0.
    """

    def __init__(self, layers: range) -> None:
        self.layers = layers
        self._outputs: dict[int, Tensor] = {}

    @contextmanager
    def reading(self, model: nn.Module) -> Iterator[None]:
        """Keep the outputs of every forward call in the block until the next one."""

        def keep(layer: int, output: Any) -> None:
            self._outputs[layer] = output[0] if isinstance(output, tuple) else output

        blocks = decoder_layers(unwrap(model))
        with ExitStack() as stack:
            for layer in self.layers:
                # registered now, after the hooks that steer, so that it sees what they return
                hook = blocks[layer].register_forward_hook(lambda m, a, o, layer=layer: keep(layer, o))  # noqa: ARG005
                stack.callback(hook.remove)
            stack.callback(self._outputs.clear)
            yield

    def logits(self, model: nn.Module, positions: slice) -> Tensor:
        """The mean over the blocks of the output head's logits, without the final norm.

        Args:
            model: the model that is read.
            positions: of the last forward call.

        Returns:
            float32 [rows, positions, vocabulary].
        """
        head = unwrap(model).get_output_embeddings()  # type: ignore[operator]
        early = [head(self._outputs[layer][:, positions].to(head.weight.device)).float() for layer in self.layers]
        return torch.stack(early).mean(0)
