"""The unsteered pass of a batch, recorded layer by layer: what a replay starts from."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor, nn


class TensorStore:
    """A mapping of names to tensors, each written once: in memory up to a bound, in files beyond it.

    Args:
        budget: bytes to hold in memory; None holds everything.
        folder: where the rest goes, in files without a name that vanish with the process; None for the system's
            temporary folder.
    """

    def __init__(self, budget: int | None = None, folder: Path | None = None) -> None:
        self.budget, self.folder = budget, folder
        self.held: dict[str, Tensor] = {}
        self.spilled: dict[str, tuple[IO[bytes], torch.device]] = {}
        self.bytes = 0

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        size = tensor.element_size() * tensor.nelement()
        if self.budget is None or self.bytes + size <= self.budget:
            self.held[name] = tensor
            self.bytes += size
            return
        file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  lives as long as this object
        file.write(safetensors.torch.save({"tensor": tensor.contiguous().cpu()}))
        file.flush()
        self.spilled[name] = file, tensor.device

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor, on the device that it was on.

        Raises:
            KeyError: for a name that was never set.
        """
        if name not in self.spilled:
            return self.held[name]
        file, device = self.spilled[name]
        file.seek(0)
        return safetensors.torch.load(file.read())["tensor"].to(device)


class RecordingCache:
    """Takes the place of a key-value cache in the base pass and records each layer's keys and values.

    Args:
        tensors: where they go, as `key0`, `value0`, …
    """

    def __init__(self, tensors: TensorStore) -> None:
        self.tensors = tensors

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Record a layer's keys and values and return them unchanged."""
        self.tensors[f"key{layer}"], self.tensors[f"value{layer}"] = key, value
        return key, value

    def get_seq_length(self, layer: int = 0) -> int:  # noqa: ARG002
        """The length of an empty cache: the base pass begins at position 0."""
        return 0


class BasePass:
    """One recorded forward pass.

    Args:
        model: an image-text-to-text model of transformers.
        layers: its decoder layers.
        tensors: where each layer's output goes, as `out0`, …; with `keys`, keys and values too.
        keys: whether to record keys and values.

    Attributes:
        calls: the keyword arguments of each layer's call.
        added: what the model adds before each layer (Qwen3-VL's deepstack); None where it adds nothing.
    """

    def __init__(self, model: nn.Module, layers: Iterable[nn.Module], tensors: TensorStore, keys: bool) -> None:
        self.model, self.layers, self.tensors, self.keys = model, layers, tensors, keys
        self.calls: list[dict[str, Any]] = []
        self.added: list[Tensor | None] = []
        self._last_output: Tensor | None = None

    def run(self, inputs: dict[str, Any], generates: bool) -> Tensor:
        """Run the pass; call this once.

        Args:
            inputs: the batch, as the processor gives it.
            generates: whether text will be generated after the prompt.

        Returns:
            the logits of the next token, [batch, vocabulary].
        """
        handles = [layer.register_forward_pre_hook(self._record_call, with_kwargs=True) for layer in self.layers]
        handles += [layer.register_forward_hook(self._record_output) for layer in self.layers]
        try:
            return self._next_token(inputs, generates)
        finally:
            for handle in handles:
                handle.remove()
            self._last_output = None

    def _next_token(self, inputs: dict[str, Any], generates: bool) -> Tensor:
        if not generates:
            logits: Tensor = self.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
            return logits
        # generate numbers positions in its own way, which the generated tokens have to continue
        output = self.model.generate(  # type: ignore[operator]
            **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
        first: Tensor = output.logits[0]
        return first

    def _record_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ARG002
        # a cache of the base pass would grow with every replay
        self.calls.append({k: v for k, v in kwargs.items() if k not in ("hidden_states", "past_key_values")})
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        before = self._last_output
        same = before is None or hidden is before or torch.equal(hidden, before)
        self.added.append(None if before is None or same else hidden - before)
        return (args, {**kwargs, "past_key_values": RecordingCache(self.tensors)}) if self.keys else None

    def _record_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        self._last_output = output[0] if isinstance(output, tuple) else output
        self.tensors[f"out{len(self.calls) - 1}"] = self._last_output
