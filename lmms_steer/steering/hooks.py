"""Steer a model with forward hooks: `with steer(model, spec):` changes layer outputs inside the block.

There are two kinds of hook. One runs before the whole model's forward and works out what the call runs on
(`lmms_steer.steering.calls`). One runs at each steered layer and changes the chosen positions
(`lmms_steer.steering.site_hook`). Modules are never replaced, and the hooks of other libraries are never touched.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Never

import torch
from torch import nn

from lmms_steer.errors import SteeringError, UserError
from lmms_steer.steering.anatomy import (
    decoder_layers,
    generating_part,
    has_norms,
    model_facts,
    unwrap,
    vision_layers,
)
from lmms_steer.steering.calls import CallTracker
from lmms_steer.steering.eager import run_eagerly
from lmms_steer.steering.gate_hook import GateHook
from lmms_steer.steering.generation import watch_generate
from lmms_steer.steering.given import Steerable, read_given
from lmms_steer.steering.loaded_fit import check_in_decoder, check_in_tower
from lmms_steer.steering.operations import Operation, OperationFunction
from lmms_steer.steering.placeholders import placeholders
from lmms_steer.steering.resolve import resolve
from lmms_steer.steering.resolved import ResolvedSpec, with_operation
from lmms_steer.steering.reuse import check_resolved
from lmms_steer.steering.scaled_vectors import active_layers, check_in_dtype
from lmms_steer.steering.site_hook import SiteHook
from lmms_steer.steering.sites import sites
from lmms_steer.steering.spec import SteeringSpec, unknown_key
from lmms_steer.steering.vision_hook import VisionHook
from lmms_steer.vectors.steering_vectors import SteeringVectors

logger = logging.getLogger(__name__)

_OUTSIDE_OF_LAYERS = ("residual", "input")
"""Sites that gradient checkpointing, which runs a layer again as a whole, leaves exact."""


@contextmanager
def steer(
    model: nn.Module,
    spec: Steerable,
    vectors: Mapping[str, SteeringVectors] | None = None,
    special_ids: Collection[int] | None = None,
    operation: str | Operation | OperationFunction | None = None,
    *,
    layer: int | None = None,
    layers: str | Sequence[int] | None = None,
    alpha: float | None = None,
    tokens: str | None = None,
    phase: str | None = None,
    scale: str | None = None,
    gamma_image: float | None = None,
    gamma_text: float | None = None,
    control: str | None = None,
    site: str | None = None,
    gate: str | None = None,
    gate_vector: SteeringVectors | str | None = None,
    gate_layer: int | None = None,
    threshold: float | None = None,
    fires: str | None = None,
    read: str | None = None,
    **unknown: Never,
) -> Iterator[ResolvedSpec]:
    """Steer a transformers model inside the block.

    What was filled in, and warnings of a vector that is another model's and of a block in which no token was steered,
    are logged under `lmms_steer`. Vectors must exist: unlike an evaluation, the block extracts none.

    `steer(model, vectors, layer=3, alpha=0.5, tokens="image")` takes vectors, the name of a vector or its file;
    `steer(model, "vector=spatial,layer=3,alpha=0.5,tokens=image")` a spec.

    Args:
        model: any model whose `get_decoder()` holds its decoder blocks in one list (`layers`, `h` or `blocks`), called
            with `input_ids`; or one of the encoder-decoders in `lmms_steer.steering.support`, called with
            `decoder_input_ids`. It may be compiled, or wrapped by PEFT, DistributedDataParallel or accelerate.
        spec: vectors, or the name or file of a vector; or a spec: a `SteeringSpec`, one line, its YAML file (such as
            the `choice.yaml` of a search), one `Intervention` or several, or the `ResolvedSpec` that `find_alpha`
            returned.
        vectors: vectors by the name that the spec uses for them; all others come from the store. A name that the spec
            does not use is refused, unless all that it uses is given.
        special_ids: the tokenizer's `all_special_ids`, which `tokens=text_paper` and `both_paper` leave out.
        operation: replaces the operation of every intervention: a name, an `Operation`, or a function
            `(hidden, vector)` as described in `lmms_steer.steering.operations`.
        layer, layers, alpha, tokens, phase, scale, gamma_image, gamma_text, control, site: of the vectors, as in a spec
            (`lmms_steer.steering.intervention.Intervention`). A spec has its own, so next to one they are refused.
        gate, gate_vector, gate_layer, threshold, fires, read: likewise; `gate_vector` may be vectors.
        **unknown: any other key is refused.

    Yields:
        the resolved spec: layer, alpha and tokens filled in, vectors loaded.

    Raises:
        UserError: before anything is attached, if the spec or one of its vectors is wrong, or `model` is not a
            loaded model of transformers.
        SteeringError: from a forward call that cannot be steered exactly, with what to do instead.
    """
    if unknown:
        key = next(iter(unknown))
        raise unknown_key(key, unknown[key])
    fields = {
        "layer": layer,
        "layers": layers,
        "alpha": alpha,
        "tokens": tokens,
        "phase": phase,
        "scale": scale,
        "gamma_image": gamma_image,
        "gamma_text": gamma_text,
        "control": control,
        "site": site,
        "gate": gate,
        "gate_vector": gate_vector,
        "gate_layer": gate_layer,
        "threshold": threshold,
        "fires": fires,
        "read": read,
    }
    given = read_given(spec, vectors, fields)
    if not isinstance(model, nn.Module) or not hasattr(unwrap(model), "config"):
        inside = ": pass its .model" if isinstance(getattr(model, "model", None), nn.Module) else ""
        raise UserError(f"steer takes a loaded model of transformers, and not a {type(model).__name__}{inside}")
    facts = model_facts(unwrap(model))
    if isinstance(given.spec, ResolvedSpec):
        check_resolved(given.spec, facts)
        if given.spec.relative and not has_norms(model, given.spec.norms):
            raise UserError(
                "scale=relative: the spec was resolved with norms that were not measured on this model: call"
                " lmms_steer.measure_norms(model, processor) for it, and give the spec's .spec"
            )
        resolved = with_operation(given.spec, operation)
    else:
        resolved = resolve(given.spec, facts, given.vectors, operation)
        for line in resolved.notes:
            logger.info(line)
        for line in resolved.warnings:
            logger.warning(line)
    attachment = attach(model, resolved, special_ids)
    try:
        yield resolved
        if attachment.acted is False:
            logger.warning(
                "not one token was steered in this block: no prompt has tokens that the spec steers, or its gate never"
                " let it act"
            )
    finally:
        attachment.remove()


class Attachment:
    """The hooks of one spec on one model, until `remove` is called. It is false if the spec needs no hooks.

    Args:
        tracker: the tracker of the model's forward calls; None without hooks.
        removals: what undoes the attachment.
        gates: the gates' hooks, in the order of `active_layers`.
    """

    def __init__(
        self,
        tracker: CallTracker | None = None,
        removals: Collection[Callable[[], None]] = (),
        gates: Collection[GateHook] = (),
    ) -> None:
        self.tracker, self._removals, self.gates = tracker, tuple(removals), tuple(gates)

    def __bool__(self) -> bool:
        return bool(self._removals)

    @property
    def failure(self) -> SteeringError | None:
        """The first call that could not be steered, for callers that may have swallowed its error."""
        return self.tracker.failure if self.tracker is not None else None

    @property
    def acted(self) -> bool | None:
        """Whether any position was steered; None before the first call, and without hooks."""
        noted = self.tracker.acted if self.tracker is not None else {}
        return any(map(bool, noted.values())) if noted else None

    def forget(self) -> None:
        """Forget the calls so far, and one that could not be steered: what comes next is another run."""
        if self.tracker is not None:
            self.tracker.failure = None
            self.tracker.acted.clear()

    def follow(self, before: "Attachment") -> None:
        """Remember the calls of the attachment that this one replaces."""
        if self.tracker is not None and before.tracker is not None:
            self.tracker.acted |= before.tracker.acted

    def remove(self) -> None:
        """Remove the hooks; a second call does nothing."""
        removals, self._removals = self._removals, ()
        for undo in removals:
            undo()


def attach(
    model: nn.Module,
    resolved: ResolvedSpec,
    special_ids: Collection[int] | None = None,
    on_failure: Callable[[SteeringError], None] | None = None,
) -> Attachment:
    """Register the hooks of a resolved spec until the attachment is removed. `steer` is the safer way.

    An intervention with alpha 0 attaches nothing, so that the model stays the unsteered one to the bit. Interventions
    act in their order: several at one layer add up, and one at a later layer sees the effect of an earlier one.

    Args:
        model: as in `steer`.
        resolved: the result of `resolve`.
        special_ids: as in `steer`.
        on_failure: called with the error of a call that cannot be steered, before it is raised.

    Raises:
        UserError: for a model that cannot be steered, a layer that it does not have, tokens=image, video or
            audio in a model without such tokens, a mask of the paper's without `special_ids`, a relative strength whose
            residual norms were not measured, or a strength that the model's dtype cannot hold.
    """
    inner = unwrap(model)
    layers = decoder_layers(inner)
    media = placeholders(inner.config)
    sees = any(sites.get(one.site).tower == "vision" for one in resolved.spec.interventions)
    tower = vision_layers(inner) if sees else None
    for one in resolved.spec.interventions:
        if sites.get(one.site).tower == "vision":
            check_in_tower(one, inner, tower)
        else:
            check_in_decoder(one, inner, len(layers), special_ids)
    active = active_layers(resolved, media.kinds)
    if not active:
        return Attachment()
    _refuse_recomputation(resolved.spec, inner)
    part = generating_part(inner)
    tracker = CallTracker(inner, on_failure, part)
    special = None if special_ids is None else frozenset(special_ids)
    hooks: list[GateHook | SiteHook] = []
    in_tower: list[VisionHook] = []
    for at in active:
        gate = GateHook(at.intervention, at.gate, media, tracker) if at.gate is not None else None
        hooks += [gate] if gate is not None else []
        for intervention, vector in at.parts:
            used = resolved.operation_of(intervention)
            check_in_dtype(intervention, vector, used, getattr(inner, "dtype", torch.float32))
            if sites.get(intervention.site).tower == "vision":
                in_tower.append(VisionHook(intervention, vector, used, tracker))
            else:
                hooks.append(SiteHook(intervention, vector, used, media, special, tracker, gate))
    # every module is found before the first hook is registered
    for hook in hooks:
        hook.check(layers)
    for hook_in_tower in in_tower:
        assert tower is not None
        hook_in_tower.check(tower)
    # some models generate with the language model inside of them
    watched = [inner, *([] if part is None else [part])]
    for module in watched:
        watch_generate(module, _trackers)
    handles = [hook.register(layers) for hook in hooks]
    handles += [hook.register(tower) for hook in in_tower if tower is not None]
    # a wrapper of PEFT calls the forward of the model inside without that model's hooks, so it needs them too
    for module in {id(m): m for m in (model, *watched)}.values():
        handles.append(module.register_forward_pre_hook(tracker.before, with_kwargs=True))
        handles.append(module.register_forward_hook(tracker.after, always_call=True))
    removals = [*(handle.remove for handle in handles), run_eagerly(model), tracker.forget_calls]
    return Attachment(tracker, removals, [hook for hook in hooks if isinstance(hook, GateHook)])


def _refuse_recomputation(spec: SteeringSpec, model: nn.Module) -> None:
    """Refuse a site inside of a layer while the layers run twice: the second run is no call of the model's forward."""
    if not (model.training and getattr(model, "is_gradient_checkpointing", False)):
        return
    for one in spec.interventions:
        if one.site not in _OUTSIDE_OF_LAYERS:
            raise UserError(
                f"site={one.site}: with gradient checkpointing the layers run again for their gradients, unsteered:"
                " call model.gradient_checkpointing_disable(), or steer at site=residual"
            )


def is_steered(model: nn.Module, besides: Attachment | None = None) -> bool:
    """Whether a model has steering hooks at the moment.

    Args:
        model: without wrappers.
        besides: hooks that do not count.
    """
    own = besides.tracker if besides is not None else None
    return any(one is not own for one in _trackers(model))


def _trackers(model: nn.Module) -> list[CallTracker]:
    """The trackers of the attachments that steer a model at the moment."""
    owners = [getattr(hook, "__self__", None) for hook in model._forward_pre_hooks.values()]
    return [one for one in owners if isinstance(one, CallTracker)]
