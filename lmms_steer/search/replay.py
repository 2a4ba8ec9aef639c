"""Steer a layer again and again without what cannot change: vision tower, embeddings and the layers up to it run once.

With the intervention at layer l, all below it is the same for every strength and token target. One base pass keeps each
layer's output and the arguments that each was called with; a cell of the search then runs layers l+1 … only.
"""

from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.intervention.anatomy import decoder_layers, image_token_ids, text_config
from lmms_steer.intervention.masks import token_mask
from lmms_steer.intervention.operations import add


class Replay:
    """One batch of prompts, ready to be steered at any layer.

    Args:
        model: an image-text-to-text model of transformers.
        inputs: what its processor gave for the batch, left-padded, so that the last position is the prompt's end.

    Attributes:
        base: the unsteered logits of the next token, [batch, vocabulary].

    Raises:
        RuntimeError: when replaying without steering does not give the model's own logits; such a model is to be
            searched through its hooks.
    """

    @torch.inference_mode()
    def __init__(self, model: nn.Module, inputs: dict[str, Any]) -> None:
        self.model, self.layers = model, decoder_layers(model)
        self.outputs: list[Tensor] = []
        self.calls: list[dict[str, Any]] = []
        # what a model adds between two layers (Qwen3-VL's deepstack); None where it adds nothing
        self.between: list[Tensor | None] = []
        handles = [layer.register_forward_pre_hook(self._keep_call, with_kwargs=True) for layer in self.layers]
        handles += [layer.register_forward_hook(self._keep_output) for layer in self.layers]
        try:
            self.base: Tensor = model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
        finally:
            for handle in handles:
                handle.remove()
        ids, attention = inputs["input_ids"], inputs.get("attention_mask")
        image_ids = image_token_ids(model.config)
        self.masks = {tokens: token_mask(ids, attention, image_ids, tokens) for tokens in ("image", "text", "both")}
        error = (self._finish(0, self.outputs[0]) - self.base).abs().max().item()
        if not error <= 1e-3 * max(1.0, self.base.abs().max().item()):
            raise RuntimeError(
                f"replay is off by {error:.3g} without steering: {type(model).__name__} cannot be replayed"
            )

    @torch.inference_mode()
    def steer(self, layer: int, delta: Tensor, tokens: str) -> Tensor:
        """Logits of the next token [batch, vocabulary] with `delta` = alpha * v [width] added at layer's output."""
        hidden = self.outputs[layer]
        return self._finish(layer, add(hidden, delta.to(hidden), self.masks[tokens]))

    def _finish(self, layer: int, hidden: Tensor) -> Tensor:
        for number in range(layer + 1, len(self.layers)):
            added = self.between[number]
            if added is not None:
                hidden = hidden + added
            out = self.layers[number](hidden, **self.calls[number])
            hidden = out[0] if isinstance(out, tuple) else out
        hidden = self.model.get_decoder().norm(hidden[:, -1:])  # type: ignore[operator, union-attr]
        logits: Tensor = self.model.get_output_embeddings()(hidden)[:, -1]  # type: ignore[operator]
        cap = getattr(text_config(self.model), "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _keep_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ARG002
        self.calls.append({key: value for key, value in kwargs.items() if key != "hidden_states"})
        entering: Tensor = args[0] if args else kwargs["hidden_states"]
        same = not self.outputs or torch.equal(entering, self.outputs[-1])
        self.between.append(None if same else entering - self.outputs[-1])

    def _keep_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        self.outputs.append(output[0] if isinstance(output, tuple) else output)
