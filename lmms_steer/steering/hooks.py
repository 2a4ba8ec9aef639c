"""Steer a model with forward hooks: `with steer(model, spec):` changes layer outputs inside the block.

There are two kinds of hook. One runs before the whole model's forward, where it sees `input_ids` and works out which
positions to change. One runs after each steered layer and changes them. Modules are never replaced, and the hooks of
other libraries are never touched.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.errors import UserError
from lmms_steer.steering.anatomy import decoder_layers, image_token_ids, model_facts
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.operations import Operation, OperationFunction, ScaledVector, apply_operation
from lmms_steer.steering.positions import ForwardCall, PromptTracker, token_mask
from lmms_steer.steering.resolve import ResolvedSpec, resolve, with_operation
from lmms_steer.steering.scaled_vectors import active_interventions
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.steering_vectors import SteeringVectors


@contextmanager
def steer(
    model: nn.Module,
    spec: SteeringSpec | ResolvedSpec | str,
    vectors: Mapping[str, SteeringVectors] | None = None,
    special_ids: Collection[int] = (),
    operation: str | Operation | OperationFunction | None = None,
) -> Iterator[ResolvedSpec]:
    """Steer a transformers model inside the block.

    Args:
        model: any model whose `get_decoder().layers` are its decoder blocks, called with `input_ids`.
        spec: what to do, as a `SteeringSpec` or in one line (`"vector=spatial,layer=3,alpha=0.5,tokens=image"`).
        vectors: vectors by the name that the spec uses for them; all others come from the store.
        special_ids: the tokenizer's `all_special_ids`, which `tokens=text_paper` and `both_paper` leave out.
        operation: replaces the operation of every intervention: a name, an `Operation`, or a function
            `(hidden, vector)` as described in `lmms_steer.steering.operations`.

    Yields:
        the resolved spec: layer, alpha and tokens filled in, vectors loaded.

    Raises:
        UserError: before anything is attached, if the spec or one of its vectors is wrong.
        RuntimeError: from a forward call that passes `inputs_embeds` and no `input_ids`.
    """
    if isinstance(spec, str):
        spec = SteeringSpec.parse(spec)
    if isinstance(spec, ResolvedSpec):
        resolved = with_operation(spec, operation)
    else:
        resolved = resolve(spec, model_facts(model), dict(vectors or {}), operation)
    with ExitStack() as stack:
        for handle in attach(model, resolved, special_ids):
            stack.callback(handle.remove)
        yield resolved


def attach(
    model: nn.Module,
    resolved: ResolvedSpec,
    special_ids: Collection[int] = (),
    operation: str | Operation | OperationFunction | None = None,
) -> list[torch.utils.hooks.RemovableHandle]:
    """Register the hooks of a resolved spec until their handles are removed. `steer` is the safer way.

    An intervention with alpha 0 attaches nothing, so that the model stays the unsteered one to the bit. Interventions
    act in their order: several at one layer add up, and one at a later layer sees the effect of an earlier one.

    Args:
        model: as in `steer`.
        resolved: the result of `resolve`.
        special_ids: as in `steer`.
        operation: as in `steer`.

    Raises:
        UserError: for a layer that the model does not have, image tokens in a model without any, or a relative strength
            whose residual norms were not measured.
    """
    resolved = with_operation(resolved, operation)
    layers = decoder_layers(model)
    image_ids = image_token_ids(model.config)
    for intervention in resolved.spec.interventions:
        if intervention.layer is None or not 0 <= intervention.layer < len(layers):
            raise UserError(f"layer={intervention.layer}: {type(model).__name__} has the layers 0-{len(layers) - 1}")
        if intervention.tokens == "image" and not image_ids:
            raise UserError(f"tokens=image: {type(model).__name__} has no image tokens, choose tokens=text")
    active = active_interventions(resolved)
    if not active:
        return []
    tracker = PromptTracker()
    hooks = [
        _LayerHook(
            intervention, vector, resolved.operation_of(intervention), image_ids, frozenset(special_ids), tracker
        )
        for intervention, vector in active
    ]
    handles = [
        model.register_forward_pre_hook(tracker.before, with_kwargs=True),
        model.register_forward_hook(tracker.after, always_call=True),
    ]
    return handles + [layers[hook.layer].register_forward_hook(hook) for hook in hooks]


class _LayerHook:
    """The forward hook of one intervention at its layer."""

    def __init__(
        self,
        intervention: Intervention,
        vector: ScaledVector,
        operation: Operation,
        image_ids: tuple[int, ...],
        special_ids: frozenset[int],
        tracker: PromptTracker,
    ) -> None:
        assert intervention.layer is not None and intervention.tokens is not None
        self.layer = intervention.layer
        self.tokens = intervention.tokens
        self.phase = intervention.phase
        self.vector, self.operation = vector, operation
        self.image_ids, self.special_ids = image_ids, special_ids
        self.tracker = tracker

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:  # noqa: ARG002
        call = self.tracker.call
        if call is None:
            raise RuntimeError("a steered layer ran outside the model's own forward: call the model, not a part of it")
        only_prompt = call.prompt_length == call.input_ids.shape[1] and call.prompt is None
        if (self.phase == "prefill" and not call.prompt_length) or (self.phase == "decode" and only_prompt):
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        if not isinstance(hidden, Tensor) or hidden.shape[:2] != call.input_ids.shape:
            actual = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
            raise RuntimeError(
                f"layer {self.layer} returned {actual} for input_ids of shape {tuple(call.input_ids.shape)}"
            )
        mask = self._mask(call).to(hidden.device)
        steered = apply_operation(self.operation, hidden, self._vector_on(hidden.device), mask)
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    def _mask(self, call: ForwardCall) -> Tensor:
        if self.tokens in ("image", "text", "both"):
            mask = token_mask(call.input_ids, call.attention_mask, self.image_ids, self.tokens)
        elif call.continues:
            raise RuntimeError(
                f"tokens={self.tokens} counts from the end of the prompt, but this prompt comes in pieces:"
                " use tokens=text or tokens=both"
            )
        else:
            mask = token_mask(
                call.input_ids, call.attention_mask, self.image_ids, self.tokens, call.prompt, self.special_ids
            )
            if self.phase != "prefill" and call.prompt is not None:
                # generated tokens are neither special tokens nor the last of the prompt
                mask = mask | ~call.prompt
        # phase `decode` returned earlier if every position is prompt
        if self.phase == "all" or call.prompt is None:
            return mask
        return mask & call.prompt if self.phase == "prefill" else mask & ~call.prompt

    def _vector_on(self, device: torch.device) -> ScaledVector:
        if self.vector.delta.device != device:
            self.vector = replace(self.vector, delta=self.vector.delta.to(device), unit=self.vector.unit.to(device))
        return self.vector
