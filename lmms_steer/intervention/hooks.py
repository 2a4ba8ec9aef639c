"""`with steer(model, spec):` changes layer outputs by forward hooks, and leaves no trace.

Two kinds of hook: one before the whole model's forward, which sees `input_ids` and works out which positions to change,
and one after each steered layer, which changes them. Modules are never replaced and hooks of others never touched.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.errors import UserError
from lmms_steer.intervention.anatomy import decoder_layers, facts, image_token_ids
from lmms_steer.intervention.masks import token_mask
from lmms_steer.intervention.operations import OPERATIONS
from lmms_steer.intervention.phase import Call, PromptTracker
from lmms_steer.resolve import ResolvedSpec, resolve
from lmms_steer.spec import Intervention, SteeringSpec
from lmms_steer.vectors import SteeringVectors


@contextmanager
def steer(
    model: nn.Module,
    spec: SteeringSpec | ResolvedSpec | str,
    vectors: Mapping[str, SteeringVectors] | None = None,
) -> Iterator[ResolvedSpec]:
    """Steer a transformers model inside the block.

    Args:
        model: any model whose `get_decoder().layers` are its decoder blocks, called with `input_ids`.
        spec: what to do, as a value or in its one-line form (`"vector=spatial,layer=3,alpha=0.5,tokens=image"`).
        vectors: vectors of your own, by the name that the spec uses; all others come from the store.

    Yields:
        the spec as it was resolved: layer, alpha and tokens filled in, vectors loaded.

    Raises:
        UserError: before anything is attached, for whatever is wrong with the spec or its vectors.
        RuntimeError: from a forward call that passes `inputs_embeds` and no `input_ids`.
    """
    if isinstance(spec, str):
        spec = SteeringSpec.parse(spec)
    resolved = spec if isinstance(spec, ResolvedSpec) else resolve(spec, facts(model), dict(vectors or {}))
    with ExitStack() as stack:
        for handle in attach(model, resolved):
            stack.callback(handle.remove)
        yield resolved


def attach(model: nn.Module, resolved: ResolvedSpec) -> list[torch.utils.hooks.RemovableHandle]:
    """Register the hooks of a resolved spec, for as long as their handles are not removed. `steer` is the safer way.

    An intervention with alpha 0 attaches nothing, so that it is the unsteered model to the bit.
    """
    layers = decoder_layers(model)
    pairs = list(zip(resolved.spec.interventions, resolved.vectors, strict=True))
    for intervention, _ in pairs:
        if intervention.layer is None or not 0 <= intervention.layer < len(layers):
            raise UserError(f"layer={intervention.layer}: {type(model).__name__} has the layers 0-{len(layers) - 1}")
    acting = [(i, v) for i, v in pairs if i.alpha != 0]
    if not acting:
        return []
    tracker = PromptTracker()
    handles = [
        model.register_forward_pre_hook(tracker.before, with_kwargs=True),
        model.register_forward_hook(tracker.after, always_call=True),
    ]
    image_ids = image_token_ids(model.config)
    for intervention, vector in acting:
        hook = _LayerHook(intervention, vector, image_ids, tracker)
        handles.append(layers[hook.layer].register_forward_hook(hook))
    return handles


class _LayerHook:
    def __init__(
        self, intervention: Intervention, vector: SteeringVectors, image_ids: tuple[int, ...], tracker: PromptTracker
    ) -> None:
        assert intervention.layer is not None and intervention.alpha is not None and intervention.tokens is not None
        self.layer = intervention.layer
        self.tokens = intervention.tokens
        self.prompt_only = intervention.phase == "prefill"
        self.operation = OPERATIONS[intervention.operation]
        self.image_ids = image_ids
        self.tracker = tracker
        # scaled in fp32: alpha * v rounded once, to the hidden state's dtype, when that is known
        self.delta = torch.from_numpy(vector[self.layer].copy()) * intervention.alpha
        self.cast: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:  # noqa: ARG002
        call = self.tracker.call
        if call is None:
            raise RuntimeError("a steered layer ran outside the model's own forward: call the model, not a part of it")
        if self.prompt_only and not call.prompt_length:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        if not isinstance(hidden, Tensor) or hidden.shape[:2] != call.input_ids.shape:
            got = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
            raise RuntimeError(f"layer {self.layer} gave {got} for input_ids {tuple(call.input_ids.shape)}")
        steered = self.operation(hidden, self._delta(hidden), self._mask(call).to(hidden.device))
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    def _mask(self, call: Call) -> Tensor:
        mask = token_mask(call.input_ids, call.attention_mask, self.image_ids, self.tokens)
        return mask & call.prompt if self.prompt_only and call.prompt is not None else mask

    def _delta(self, hidden: Tensor) -> Tensor:
        key = (hidden.device, hidden.dtype)
        if key not in self.cast:
            self.cast[key] = self.delta.to(*key)
        return self.cast[key]
