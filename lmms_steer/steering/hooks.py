"""Steer a model with forward hooks: `with steer(model, spec):` changes layer outputs inside the block.

There are two kinds of hook. One runs before the whole model's forward and works out what the call runs on
(`lmms_steer.steering.calls`). One runs after each steered layer and changes the chosen positions. Modules are never
replaced, and the hooks of other libraries are never touched.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lmms_steer.errors import SteeringError, UserError
from lmms_steer.steering.anatomy import decoder_layers, hides_images, image_token_ids, model_facts, shares_keys, unwrap
from lmms_steer.steering.calls import CallTracker
from lmms_steer.steering.eager import run_eagerly
from lmms_steer.steering.generation import watch_generate
from lmms_steer.steering.given import read_given
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.operations import Operation, OperationFunction, ScaledVector, apply_operation
from lmms_steer.steering.positions import require_special_ids
from lmms_steer.steering.resolve import ResolvedSpec, resolve, with_operation
from lmms_steer.steering.row_vectors import is_row_vector, of_rows, runs_unsteered
from lmms_steer.steering.scaled_vectors import active_interventions, check_in_dtype
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.steering_vectors import SteeringVectors


@contextmanager
def steer(
    model: nn.Module,
    spec: SteeringSpec | ResolvedSpec | SteeringVectors | str,
    vectors: Mapping[str, SteeringVectors] | None = None,
    special_ids: Collection[int] | None = None,
    operation: str | Operation | OperationFunction | None = None,
    *,
    layer: int | None = None,
    alpha: float | None = None,
    tokens: str | None = None,
    phase: str | None = None,
    scale: str | None = None,
    gamma_image: float | None = None,
    gamma_text: float | None = None,
    control: str | None = None,
) -> Iterator[ResolvedSpec]:
    """Steer a transformers model inside the block.

    `steer(model, vectors, layer=3, alpha=0.5, tokens="image")` takes vectors, the name of a vector or its file;
    `steer(model, "vector=spatial,layer=3,alpha=0.5,tokens=image")` a spec.

    Args:
        model: any model whose `get_decoder().layers` are its decoder blocks, called with `input_ids`. It may be
            compiled, or wrapped by PEFT, DistributedDataParallel or accelerate.
        spec: vectors, or a spec: a `SteeringSpec` or one line.
        vectors: vectors by the name that the spec uses for them; all others come from the store.
        special_ids: the tokenizer's `all_special_ids`, which `tokens=text_paper` and `both_paper` leave out.
        operation: replaces the operation of every intervention: a name, an `Operation`, or a function
            `(hidden, vector)` as described in `lmms_steer.steering.operations`.
        layer, alpha, tokens, phase, scale, gamma_image, gamma_text, control: of the vectors, as in a spec
            (`lmms_steer.steering.intervention.Intervention`). A spec has its own, so next to one they are refused.

    Yields:
        the resolved spec: layer, alpha and tokens filled in, vectors loaded.

    Raises:
        UserError: before anything is attached, if the spec or one of its vectors is wrong.
        SteeringError: from a forward call that cannot be steered exactly, with what to do instead.
    """
    fields = {
        "layer": layer,
        "alpha": alpha,
        "tokens": tokens,
        "phase": phase,
        "scale": scale,
        "gamma_image": gamma_image,
        "gamma_text": gamma_text,
        "control": control,
    }
    given = read_given(spec, vectors, fields)
    if isinstance(given.spec, ResolvedSpec):
        resolved = with_operation(given.spec, operation)
    else:
        resolved = resolve(given.spec, model_facts(unwrap(model)), given.vectors, operation)
    attachment = attach(model, resolved, special_ids)
    try:
        yield resolved
    finally:
        attachment.remove()


class Attachment:
    """The hooks of one spec on one model, until `remove` is called. It is false if the spec needs no hooks.

    Args:
        tracker: the tracker of the model's forward calls; None without hooks.
        removals: what undoes the attachment.
    """

    def __init__(self, tracker: CallTracker | None = None, removals: Collection[Callable[[], None]] = ()) -> None:
        self._tracker, self._removals = tracker, tuple(removals)

    def __bool__(self) -> bool:
        return bool(self._removals)

    @property
    def failure(self) -> SteeringError | None:
        """The first call that could not be steered, for callers that may have swallowed its error."""
        return self._tracker.failure if self._tracker is not None else None

    def remove(self) -> None:
        """Remove the hooks; a second call does nothing."""
        removals, self._removals = self._removals, ()
        for undo in removals:
            undo()


def attach(
    model: nn.Module,
    resolved: ResolvedSpec,
    special_ids: Collection[int] | None = None,
    operation: str | Operation | OperationFunction | None = None,
    on_failure: Callable[[SteeringError], None] | None = None,
) -> Attachment:
    """Register the hooks of a resolved spec until the attachment is removed. `steer` is the safer way.

    An intervention with alpha 0 attaches nothing, so that the model stays the unsteered one to the bit. Interventions
    act in their order: several at one layer add up, and one at a later layer sees the effect of an earlier one.

    Args:
        model: as in `steer`.
        resolved: the result of `resolve`.
        special_ids: as in `steer`.
        operation: as in `steer`.
        on_failure: called with the error of a call that cannot be steered, before it is raised.

    Raises:
        UserError: for a model that cannot be steered, a layer that it does not have, image tokens in a model without
            any, a mask of the paper's without `special_ids`, a relative strength whose residual norms were not
            measured, or a strength that the model's dtype cannot hold.
    """
    resolved = with_operation(resolved, operation)
    inner = unwrap(model)
    layers = decoder_layers(inner)
    image_ids = image_token_ids(inner.config)
    for intervention in resolved.spec.interventions:
        if intervention.layer is None or not 0 <= intervention.layer < len(layers):
            raise UserError(f"layer={intervention.layer}: {type(inner).__name__} has the layers 0-{len(layers) - 1}")
        if intervention.tokens == "image" and not image_ids:
            instead = "tokens=both" if hides_images(inner.config) else "tokens=text"
            raise UserError(f"tokens=image: {type(inner).__name__} has no image tokens, choose {instead}")
        if intervention.tokens not in ("both", "last") and hides_images(inner.config):
            raise UserError(
                f"tokens={intervention.tokens}: the config of this {type(inner).__name__} does not say which tokens are"
                " images, choose tokens=both"
            )
        require_special_ids(str(intervention.tokens), special_ids)
    active = active_interventions(resolved)
    if not active:
        return Attachment()
    tracker = CallTracker(inner, on_failure)
    special = None if special_ids is None else frozenset(special_ids)
    hooks = []
    for intervention, vector in active:
        used = resolved.operation_of(intervention)
        check_in_dtype(intervention, vector, used, getattr(inner, "dtype", torch.float32))
        hooks.append(_LayerHook(intervention, vector, used, image_ids, special, tracker))
    watch_generate(inner, is_steered)
    handles = [layers[hook.layer].register_forward_hook(hook) for hook in hooks]
    # a wrapper of PEFT calls the forward of the model inside, past the hooks of that
    for module in {id(m): m for m in (model, inner)}.values():
        handles.append(module.register_forward_pre_hook(tracker.before, with_kwargs=True))
        handles.append(module.register_forward_hook(tracker.after, always_call=True))
    return Attachment(tracker, [*(handle.remove for handle in handles), run_eagerly(model)])


def is_steered(model: nn.Module) -> bool:
    """Whether a model has steering hooks at the moment."""
    return any(isinstance(getattr(h, "__self__", None), CallTracker) for h in model._forward_pre_hooks.values())


class _LayerHook:
    """The forward hook of one intervention at its layer."""

    def __init__(
        self,
        intervention: Intervention,
        vector: ScaledVector,
        operation: Operation,
        image_ids: tuple[int, ...],
        special_ids: frozenset[int] | None,
        tracker: CallTracker,
    ) -> None:
        assert intervention.layer is not None and intervention.tokens is not None
        self.layer = intervention.layer
        self.tokens = intervention.tokens
        self.phase = intervention.phase
        self.alpha = intervention.alpha
        self.intervention = intervention
        self.vector, self.operation = vector, operation
        self.image_ids, self.special_ids = image_ids, special_ids
        self.tracker = tracker
        self._on_device: dict[torch.device, ScaledVector] = {}

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:  # noqa: ARG002
        with self.tracker.watch_failures():
            return self._steer(output, shares_keys(module))

    def _steer(self, output: Any, shares: bool) -> Any:
        if runs_unsteered():
            return None
        call = self.tracker.call
        if call is None:
            raise SteeringError("a steered layer ran outside the model's own forward: call the model, not a part of it")
        mask = call.steered(self.tokens, self.phase, self.image_ids, self.special_ids)
        if mask is None:
            return None
        hidden = output[0] if isinstance(output, tuple) else output
        if shares and isinstance(hidden, Tensor):
            # it may run on the last positions only: no later layer reads the others
            mask = mask[:, -hidden.shape[1] :]
        if not isinstance(hidden, Tensor) or hidden.dim() != 3 or hidden.shape[:2] != mask.shape:
            actual = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
            raise SteeringError(
                f"layer {self.layer} returned {actual} for input_ids of shape {tuple(call.input_ids.shape)}"
            )
        vector = self._vector_on(hidden.device)
        if is_row_vector(self.intervention.vector):
            vector = of_rows(self.intervention, vector, hidden)
        steered = apply_operation(self.operation, hidden, vector, mask.to(hidden.device))
        if hidden.dtype == torch.float16 and not bool(torch.isfinite(steered).all() | ~torch.isfinite(hidden).all()):
            raise SteeringError(
                f"alpha={self.alpha:g}: the steered residual of layer {self.layer} overflows float16: use a smaller"
                " alpha, or dtype=bfloat16"
            )
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    def _vector_on(self, device: torch.device) -> ScaledVector:
        if device not in self._on_device:
            delta, unit = self.vector.delta.to(device), self.vector.unit.to(device)
            self._on_device[device] = replace(self.vector, delta=delta, unit=unit)
        return self._on_device[device]
