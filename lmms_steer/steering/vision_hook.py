"""The hook of one intervention at a layer of the vision tower."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lmms_steer.errors import SteeringError
from lmms_steer.steering.calls import CallTracker
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.operations import Operation, ScaledVector, apply_operation
from lmms_steer.steering.row_vectors import runs_unsteered
from lmms_steer.steering.site_tensor import check_overflow, register_steering
from lmms_steer.steering.sites import find_module, sites


class VisionHook:
    """Changes every position of a layer's output: the patches, and a class token where there is one.

    Args:
        intervention: complete, at one layer.
        vector: its scaled vector.
        operation: what is done with it.
        tracker: keeps the first error.
    """

    def __init__(
        self, intervention: Intervention, vector: ScaledVector, operation: Operation, tracker: CallTracker
    ) -> None:
        assert intervention.layer is not None
        self.layer, self.site, self.alpha = intervention.layer, sites.get(intervention.site), intervention.alpha
        self.vector, self.operation, self.tracker = vector, operation, tracker

    def check(self, layers: nn.ModuleList) -> None:
        """Check that the intervention has a place in a tower.

        Raises:
            UserError: for a layer that has no module of the site.
        """
        find_module(self.site, layers, self.layer)

    def register(self, layers: nn.ModuleList) -> RemovableHandle:
        """Register the hook in the tower."""
        return register_steering(self.site, layers, self.layer, self._act)

    def _act(self, value: Any) -> Tensor | None:
        if runs_unsteered():
            return None
        with self.tracker.watch_failures():
            width = self.vector.unit.shape[-1]
            if not isinstance(value, Tensor) or value.dim() not in (2, 3) or value.shape[-1] != width:
                actual = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise SteeringError(f"vision layer {self.layer} returned {actual} for a vector of width {width}")
            self._check_patches(value)
            hidden = value if value.dim() == 3 else value.unsqueeze(0)
            vector = replace(
                self.vector, delta=self.vector.delta.to(hidden.device), unit=self.vector.unit.to(hidden.device)
            )
            if vector.per_token:
                vector = vector.at_norms_of(hidden)
            everywhere = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
            self.tracker.note(everywhere)
            steered = apply_operation(self.operation, hidden, vector, everywhere)
            check_overflow(hidden, steered, self.alpha, f"vision layer {self.layer}")
            return steered.view(value.shape)

    def _check_patches(self, value: Tensor) -> None:
        """Check that a direction for each patch finds its patches."""
        if self.vector.unit.dim() == 1:
            return
        patches = len(self.vector.unit)
        if value.dim() == 2:
            raise SteeringError(
                f"the vector has a direction for each of {patches} patches, and this tower does not show where an image"
                " ends: use a vector with one direction for all"
            )
        if value.shape[1] != patches:
            raise SteeringError(
                f"the vector has a direction for each of {patches} patches, and vision layer {self.layer} has"
                f" {value.shape[1]}: extract it from images of this size"
            )
