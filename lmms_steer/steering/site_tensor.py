"""Hook the tensor of a site, whatever form its module takes or returns it in."""

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lmms_steer.errors import SteeringError
from lmms_steer.steering.sites import Site, find_module

_STEERING: "WeakValueDictionary[int, RemovableHandle]" = WeakValueDictionary()
"""The hooks of `register_steering` that are there, by the number that torch gives each hook of a process."""


def register_hook(
    site: Site, layers: nn.ModuleList, layer: int, act: Callable[[Any], Tensor | None], prepend: bool = False
) -> RemovableHandle:
    """Call a function with the tensor of a site in every forward call, and put what it returns in the tensor's place.

    Args:
        site: which tensor.
        layers: the model's.
        layer: the number of one of them.
        act: gets the tensor; None leaves it as it is.
        prepend: whether the hook runs before those that are there already.

    Raises:
        UserError: for a layer that has no module of the site.
    """

    def on_output(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:  # noqa: ARG001
        changed = act(output[0] if isinstance(output, tuple) else output)
        if changed is None:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    def on_input(
        module: nn.Module,  # noqa: ARG001
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        changed = act(args[0] if args else kwargs.get("hidden_states"))
        if changed is None:
            return None
        return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

    module = find_module(site, layers, layer)
    if site.changes == "output":
        return module.register_forward_hook(on_output, prepend=prepend)
    return module.register_forward_pre_hook(on_input, with_kwargs=True, prepend=prepend)


def register_steering(
    site: Site, layers: nn.ModuleList, layer: int, act: Callable[[Any], Tensor | None]
) -> RemovableHandle:
    """Register a hook as `register_hook` does, before all others but those that were registered by this function.

    transformers records hidden states by hooks that stay in a model once they were asked for. They must see what the
    later layers see: `output_hidden_states` returns it, and LLaVA feeds a recorded state of its tower to its decoder.

    Raises:
        UserError: as `register_hook`.
    """
    module = find_module(site, layers, layer)
    hooks: Any = module._forward_hooks if site.changes == "output" else module._forward_pre_hooks
    earlier = [key for key in hooks if key in _STEERING]
    handle = register_hook(site, layers, layer, act, prepend=True)
    _STEERING[handle.id] = handle
    for key in reversed(earlier):
        hooks.move_to_end(key, last=False)
    return handle


def per_position(value: Any, shape: tuple[int, ...], layer: int, site: str) -> Tensor:
    """The hidden states as [batch, positions, width].

    Args:
        value: what a hook got. Some mixtures of experts return one row for each position of the batch.
        shape: batch and positions.
        layer: where the hook is, for the message.
        site: the site's name, for the message.

    Raises:
        SteeringError: for anything else.
    """
    if isinstance(value, Tensor):
        if value.dim() == 2 and value.shape[0] == shape[0] * shape[1]:
            return value.view(*shape, -1)
        if value.dim() == 3 and tuple(value.shape[:2]) == shape:
            return value
    actual = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise SteeringError(f"layer {layer} has {actual} at site={site} for {shape[0]} rows of {shape[1]} positions")


def check_overflow(hidden: Tensor, steered: Tensor, alpha: float | None, layer: str) -> None:
    """
    Raises:
        SteeringError: for float16 hidden states that were finite and no longer are.
    """
    if hidden.dtype == torch.float16 and not bool(torch.isfinite(steered).all() | ~torch.isfinite(hidden).all()):
        raise SteeringError(
            f"alpha={alpha:g}: the steered residual of {layer} overflows float16: use a smaller alpha, or"
            " dtype=bfloat16"
        )
