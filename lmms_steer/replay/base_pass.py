"""The unsteered pass of a batch, recorded layer by layer: what a replay starts from."""

import inspect
from collections.abc import Iterable
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from lmms_steer.replay.kv_cache import RecordingCache
from lmms_steer.replay.tensor_store import TensorStore
from lmms_steer.steering.anatomy import kept_logits
from lmms_steer.steering.cache_argument import CACHE_NAMES, cache_name

_additions_are_fixed: WeakSet[nn.Module] = WeakSet()
"""Models whose additions between layers were found not to depend on the layers."""


def last_logits(model: Any, inputs: dict[str, Any], kept: int | None) -> Tensor:
    """One forward pass.

    Args:
        model: the model.
        inputs: the batch.
        kept: how many last positions' logits are returned; None for the last one's alone.

    Returns:
        [batch, kept, vocabulary]; [batch, vocabulary] if `kept` is None.
    """
    logits: Tensor = model(**inputs, use_cache=False, **kept_logits(model, kept or 1)).logits
    return logits[:, -1] if kept is None else logits[:, -kept:]


def next_token_logits(model: Any, inputs: dict[str, Any], kept: int | None, generates: bool) -> Tensor:
    """One forward pass as a search needs it.

    Args:
        model, inputs, kept: as for `last_logits`.
        generates: whether text will be generated after the prompt.
    """
    if not generates:
        return last_logits(model, inputs, kept)
    # generate numbers positions in its own way, which the generated tokens have to continue
    output = model.generate(
        **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    first: Tensor = output.logits[0]
    return first


class BasePass:
    """One recorded forward pass.

    Args:
        model: an image-text-to-text model of transformers.
        layers: its decoder layers.
        tensors: where the first layer's input goes, as `in0`, and each layer's output, as `out0`, …; with `keys`, keys
            and values too.
        keys: whether to record keys and values.
        kept: how many last positions' logits are returned; None for the last one's alone.

    Attributes:
        calls: the keyword arguments of each layer's call.
        added: what the model adds before each layer (Qwen3-VL's deepstack); None where it adds nothing.
    """

    def __init__(
        self, model: nn.Module, layers: Iterable[nn.Module], tensors: TensorStore, keys: bool, kept: int | None = None
    ) -> None:
        self.model, self.layers, self.tensors, self.keys, self.kept = model, layers, tensors, keys, kept
        self.calls: list[dict[str, Any]] = []
        self.added: list[Tensor | None] = []
        self._last_output: Tensor | None = None

    def run(self, inputs: dict[str, Any], generates: bool) -> Tensor:
        """Run the pass; call this once.

        Args:
            inputs: the batch, as the processor gives it.
            generates: whether text will be generated after the prompt.

        Returns:
            the logits of the next token, [batch, vocabulary]; with `kept`, [batch, kept, vocabulary].
        """
        handles = [layer.register_forward_pre_hook(self._record_call, with_kwargs=True) for layer in self.layers]
        handles += [layer.register_forward_hook(self._record_output) for layer in self.layers]
        try:
            return next_token_logits(self.model, inputs, self.kept, generates)
        finally:
            for handle in handles:
                handle.remove()
            self._last_output = None

    def check_additions(self, inputs: dict[str, Any]) -> None:
        """Check once per model that what it adds between layers does not depend on their outputs.

        Features of a picture do not (Qwen3-VL); cross-attention between layers does (Idefics). A second pass, from a
        changed input of the first layer, tells.

        Args:
            inputs: the batch of `run`.

        Raises:
            RuntimeError: if it depends on them.
        """
        if self.model in _additions_are_fixed or all(added is None for added in self.added):
            return
        expected, outputs = iter(self.added), list[Tensor]()

        def compare(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
            hidden: Tensor = args[0] if args else kwargs["hidden_states"]
            added = next(expected)
            if not outputs:
                more = 1.5 * hidden
                return ((more, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": more})
            before = outputs.pop()
            rounding = 4 * torch.finfo(hidden.dtype).eps * (hidden.abs() + before.abs())
            if added is not None and ((hidden - before - added).abs() > rounding).any():
                raise RuntimeError("what it adds between its layers depends on them, and a replay would not change it")
            return None

        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG001
            outputs[:] = [output[0] if isinstance(output, tuple) else output]

        handles = [layer.register_forward_pre_hook(compare, with_kwargs=True) for layer in self.layers]
        handles += [layer.register_forward_hook(keep) for layer in self.layers]
        try:
            last_logits(self.model, inputs, self.kept)
        finally:
            for handle in handles:
                handle.remove()
        _additions_are_fixed.add(self.model)

    def _record_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = kwargs
        if args[1:]:
            # the layers of Kosmos-2 are given their mask by its place
            names = list(inspect.signature(module.forward).parameters)
            given = {**dict(zip(names[1:], args[1:], strict=False)), **kwargs}
        # a cache of the base pass would grow with every replay
        self.calls.append({k: v for k, v in given.items() if k not in ("hidden_states", *CACHE_NAMES)})
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        before = self._last_output
        if before is None:
            self.tensors["in0"] = hidden
        same = before is None or hidden is before or torch.equal(hidden, before)
        self.added.append(None if before is None or same else hidden - before)
        return (args, {**kwargs, cache_name(module): RecordingCache(self.tensors)}) if self.keys else None

    def _record_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        if isinstance(output, tuple) and any(part is not None for part in output[1:]):
            raise RuntimeError("its layers pass on more than the residual, which a replay would not change")
        self._last_output = output[0] if isinstance(output, tuple) else output
        self.tensors[f"out{len(self.calls) - 1}"] = self._last_output
