"""The hook of one intervention at its site in one layer."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lmms_steer._util.code import is_built_in
from lmms_steer.errors import SteeringError
from lmms_steer.steering.anatomy import shares_keys
from lmms_steer.steering.calls import CallTracker
from lmms_steer.steering.gate_hook import GateHook
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.operations import Operation, ScaledVector, apply_operation
from lmms_steer.steering.placeholders import Placeholders
from lmms_steer.steering.row_vectors import is_row_vector, of_rows, runs_unsteered
from lmms_steer.steering.site_tensor import check_overflow, per_position, register_steering
from lmms_steer.steering.sites import find_module, sites


class SiteHook:
    """Changes the tensor of one intervention in every forward call.

    Args:
        intervention: complete, at one layer.
        vector: its scaled vector.
        operation: what is done with it.
        media: the model's placeholders.
        special_ids: the tokenizer's special ids, for the paper's masks.
        tracker: knows the forward call in progress.
        gate: decides where the intervention acts; None: everywhere.
    """

    def __init__(
        self,
        intervention: Intervention,
        vector: ScaledVector,
        operation: Operation,
        media: Placeholders,
        special_ids: frozenset[int] | None,
        tracker: CallTracker,
        gate: GateHook | None = None,
    ) -> None:
        assert intervention.layer is not None and intervention.tokens is not None
        self.layer, self.site = intervention.layer, sites.get(intervention.site)
        self.tokens = intervention.tokens
        self.phase = intervention.phase
        self.alpha = intervention.alpha
        self.intervention = intervention
        self.vector, self.operation, self.gate = vector, operation, gate
        self.media, self.special_ids = media, special_ids
        self.tracker = tracker
        self._on_device: dict[torch.device, ScaledVector] = {}
        self._shares = False

    def check(self, layers: nn.ModuleList) -> None:
        """Check that the intervention has a place in a model.

        Raises:
            UserError: for a layer that has no module of the site.
        """
        find_module(self.site, layers, self.layer)

    def register(self, layers: nn.ModuleList) -> RemovableHandle:
        """Register the hook in the model."""
        self._shares = shares_keys(layers[self.layer])
        if not is_built_in(self.site.function):
            found = type(find_module(self.site, layers, self.layer)).__name__
            named = f"site={self.site.name}: the module that it finds in layer {self.layer}, a {found},"
            self.tracker.must_run.append((self, self.layer, named))
        return register_steering(self.site, layers, self.layer, self._act)

    def _act(self, value: Any) -> Tensor | None:
        with self.tracker.watch_failures():
            return self._steer(value)

    def _steer(self, value: Any) -> Tensor | None:
        call = self.tracker.call
        if call is not None:
            call.reached.add(self)
        if runs_unsteered():
            return None
        if call is None:
            raise SteeringError(
                "a steered layer ran outside the model's own forward: call the model, not a part of it; with gradient"
                " checkpointing the layers run again for their gradients, so switch it on or off before the block"
            )
        mask = call.steered(self.tokens, self.phase, self.media, self.special_ids)
        if mask is None:
            self.tracker.note(torch.zeros(1, dtype=torch.bool))
            return None
        if self._shares and isinstance(value, Tensor) and value.dim() == 3:
            # it may run on the last positions only: no later layer reads the others
            mask = mask[:, -value.shape[1] :]
        hidden = per_position(value, tuple(mask.shape), self.layer, self.site.name)
        width = self.vector.unit.shape[-1]
        if hidden.shape[-1] != width:
            raise SteeringError(
                f"layer {self.layer} has the width {hidden.shape[-1]} at site={self.site.name}, and the vector {width}"
            )
        mask = mask.to(hidden.device)
        if self.gate is not None:
            mask = self.gate.allowed(call, mask)
        self.tracker.note(mask)
        vector = self._vector_on(hidden.device)
        if is_row_vector(self.intervention.vector):
            vector = of_rows(self.intervention, vector, hidden)
        if vector.per_token:
            vector = vector.at_norms_of(hidden)
        steered = apply_operation(self.operation, hidden, vector, mask)
        check_overflow(hidden, steered, self.alpha, f"layer {self.layer}")
        return steered.view(value.shape)

    def _vector_on(self, device: torch.device) -> ScaledVector:
        if device not in self._on_device:
            delta, unit = self.vector.delta.to(device), self.vector.unit.to(device)
            self._on_device[device] = replace(self.vector, delta=delta, unit=unit)
        return self._on_device[device]
