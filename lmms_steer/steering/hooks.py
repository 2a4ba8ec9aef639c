"""`with steer(model, spec):` changes layer outputs by forward hooks, and leaves no trace.

Two kinds of hook: one before the whole model's forward, which sees `input_ids` and works out which positions to change,
and one after each steered layer, which changes them. Modules are never replaced and hooks of others never touched.
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
from lmms_steer.steering.operations import OPERATIONS, ScaledVector
from lmms_steer.steering.positions import ForwardCall, PromptTracker, token_mask
from lmms_steer.steering.resolve import ResolvedSpec, resolve
from lmms_steer.steering.scaled_vectors import active_interventions
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.steering_vectors import SteeringVectors


@contextmanager
def steer(
    model: nn.Module,
    spec: SteeringSpec | ResolvedSpec | str,
    vectors: Mapping[str, SteeringVectors] | None = None,
    special_ids: Collection[int] = (),
) -> Iterator[ResolvedSpec]:
    """Steer a transformers model inside the block.

    Args:
        model: any model whose `get_decoder().layers` are its decoder blocks, called with `input_ids`.
        spec: what to do, as a value or in its one-line form (`"vector=spatial,layer=3,alpha=0.5,tokens=image"`).
        vectors: vectors of your own, by the name that the spec uses; all others come from the store.
        special_ids: the tokenizer's `all_special_ids`, which `tokens=text_paper` and `both_paper` leave out.

    Yields:
        the spec as it was resolved: layer, alpha and tokens filled in, vectors loaded.

    Raises:
        UserError: before anything is attached, for whatever is wrong with the spec or its vectors.
        RuntimeError: from a forward call that passes `inputs_embeds` and no `input_ids`.
    """
    if isinstance(spec, str):
        spec = SteeringSpec.parse(spec)
    resolved = spec if isinstance(spec, ResolvedSpec) else resolve(spec, model_facts(model), dict(vectors or {}))
    with ExitStack() as stack:
        for handle in attach(model, resolved, special_ids):
            stack.callback(handle.remove)
        yield resolved


def attach(
    model: nn.Module, resolved: ResolvedSpec, special_ids: Collection[int] = ()
) -> list[torch.utils.hooks.RemovableHandle]:
    """Register the hooks of a resolved spec, for as long as their handles are not removed. `steer` is the safer way.

    An intervention with alpha 0 attaches nothing, so that it is the unsteered model to the bit. Interventions act in
    their order: several at one layer add up, one at a later layer sees what an earlier one did.

    Raises:
        UserError: for a layer that the model has not, image tokens in a model without any, or a relative strength whose
            residual norms were not measured.
    """
    layers = decoder_layers(model)
    image_ids = image_token_ids(model.config)
    for intervention in resolved.spec.interventions:
        if intervention.layer is None or not 0 <= intervention.layer < len(layers):
            raise UserError(f"layer={intervention.layer}: {type(model).__name__} has the layers 0-{len(layers) - 1}")
        if intervention.tokens == "image" and not image_ids:
            raise UserError(f"tokens=image: {type(model).__name__} has no image tokens, choose tokens=text")
    parts = active_interventions(resolved)
    if not parts:
        return []
    tracker = PromptTracker()
    hooks = [_LayerHook(i, push, image_ids, frozenset(special_ids), tracker) for i, push in parts]
    handles = [
        model.register_forward_pre_hook(tracker.before, with_kwargs=True),
        model.register_forward_hook(tracker.after, always_call=True),
    ]
    return handles + [layers[hook.layer].register_forward_hook(hook) for hook in hooks]


class _LayerHook:
    def __init__(
        self,
        intervention: Intervention,
        push: ScaledVector,
        image_ids: tuple[int, ...],
        special_ids: frozenset[int],
        tracker: PromptTracker,
    ) -> None:
        assert intervention.layer is not None and intervention.tokens is not None
        self.layer = intervention.layer
        self.tokens = intervention.tokens
        self.phase = intervention.phase
        self.operation = OPERATIONS[intervention.operation]
        self.image_ids, self.special_ids = image_ids, special_ids
        self.tracker = tracker
        self.push = push

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:  # noqa: ARG002
        call = self.tracker.call
        if call is None:
            raise RuntimeError("a steered layer ran outside the model's own forward: call the model, not a part of it")
        whole = call.prompt_length == call.input_ids.shape[1] and call.prompt is None
        if (self.phase == "prefill" and not call.prompt_length) or (self.phase == "decode" and whole):
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        if not isinstance(hidden, Tensor) or hidden.shape[:2] != call.input_ids.shape:
            got = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
            raise RuntimeError(f"layer {self.layer} gave {got} for input_ids {tuple(call.input_ids.shape)}")
        steered = self.operation(hidden, self._on(hidden.device), self._mask(call).to(hidden.device))
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    def _mask(self, call: ForwardCall) -> Tensor:
        if self.tokens in ("image", "text", "both"):
            mask = token_mask(call.input_ids, call.attention_mask, self.image_ids, self.tokens)
        elif call.continues:
            raise RuntimeError(
                f"tokens={self.tokens} counts from the prompt's end, and this prompt comes in pieces: use text or both"
            )
        else:
            mask = token_mask(
                call.input_ids, call.attention_mask, self.image_ids, self.tokens, call.prompt, self.special_ids
            )
            if self.phase != "prefill" and call.prompt is not None:
                # what is generated is neither special nor the prompt's last
                mask = mask | ~call.prompt
        # where all is prompt, phase `decode` has left before this
        if self.phase == "all" or call.prompt is None:
            return mask
        return mask & call.prompt if self.phase == "prefill" else mask & ~call.prompt

    def _on(self, device: torch.device) -> ScaledVector:
        if self.push.delta.device != device:
            self.push = replace(self.push, delta=self.push.delta.to(device), unit=self.push.unit.to(device))
        return self.push
