"""The unsteered pass of a batch, kept layer by layer: what a replay starts from."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.search.kv_cache import RecordingCache, TensorStore


class BasePass:
    """One forward call, recorded.

    Args:
        model: an image-text-to-text model of transformers.
        layers: its decoder's.
        kept: where each layer's output goes, as `out0` …; with `keys`, keys and values too.
        keys: whether keys and values are wanted.

    Attributes:
        calls: what each layer was called with.
        between: what the model adds in front of each layer (Qwen3-VL's deepstack); None where it adds nothing.
    """

    def __init__(self, model: nn.Module, layers: Iterable[nn.Module], kept: TensorStore, keys: bool) -> None:
        self.model, self.layers, self.kept, self.keys = model, layers, kept, keys
        self.calls: list[dict[str, Any]] = []
        self.between: list[Tensor | None] = []
        self._leaving: Tensor | None = None

    def run(self, inputs: dict[str, Any], generates: bool) -> Tensor:
        """Run it, once; the logits of the next token, [batch, vocabulary].

        Args:
            inputs: as the processor gives them.
            generates: whether text will be generated behind the prompt.
        """
        handles = [layer.register_forward_pre_hook(self._keep_call, with_kwargs=True) for layer in self.layers]
        handles += [layer.register_forward_hook(self._keep_output) for layer in self.layers]
        try:
            return self._next_token(inputs, generates)
        finally:
            for handle in handles:
                handle.remove()
            self._leaving = None

    def _next_token(self, inputs: dict[str, Any], generates: bool) -> Tensor:
        if not generates:
            logits: Tensor = self.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
            return logits
        # generate numbers the positions in a way of its own, which those to come have to go on with
        said = self.model.generate(  # type: ignore[operator]
            **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        first: Tensor = said.logits[0]
        return first

    def _keep_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG002
        # a cache of the base pass would grow with every replay
        self.calls.append({k: v for k, v in kwargs.items() if k not in ("hidden_states", "past_key_values")})
        entering: Tensor = args[0] if args else kwargs["hidden_states"]
        before = self._leaving
        same = before is None or entering is before or torch.equal(entering, before)
        self.between.append(None if before is None or same else entering - before)
        return (args, {**kwargs, "past_key_values": RecordingCache(self.kept)}) if self.keys else None

    def _keep_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        self._leaving = output[0] if isinstance(output, tuple) else output
        self.kept[f"out{len(self.calls) - 1}"] = self._leaving
