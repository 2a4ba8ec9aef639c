"""What every decoder layer gives, while a model runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lmms_steer.intervention.anatomy import decoder_layers


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
