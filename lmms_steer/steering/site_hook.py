"""The hook of one intervention at its site in one layer."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lmms_steer.errors import SteeringError
from lmms_steer.steering.anatomy import shares_keys
from lmms_steer.steering.calls import CallTracker
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.operations import Operation, ScaledVector, apply_operation
from lmms_steer.steering.row_vectors import is_row_vector, of_rows, runs_unsteered
from lmms_steer.steering.sites import find_module, sites


class SiteHook:
    """Changes the tensor of one intervention in every forward call.

    Args:
        intervention: complete, at one layer.
        vector: its scaled vector.
        operation: what is done with it.
        image_ids: the placeholder ids of `anatomy.image_token_ids`.
        special_ids: the tokenizer's special ids, for the paper's masks.
        tracker: knows the forward call in progress.
    """

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
        self.layer, self.site = intervention.layer, sites.get(intervention.site)
        self.tokens = intervention.tokens
        self.phase = intervention.phase
        self.alpha = intervention.alpha
        self.intervention = intervention
        self.vector, self.operation = vector, operation
        self.image_ids, self.special_ids = image_ids, special_ids
        self.tracker = tracker
        self._on_device: dict[torch.device, ScaledVector] = {}
        self._shares = False

    def register(self, layers: nn.ModuleList) -> RemovableHandle:
        """Register the hook in the model.

        Raises:
            UserError: for a layer that has no module of the site.
        """
        module = find_module(self.site, layers, self.layer)
        self._shares = shares_keys(layers[self.layer])
        if self.site.changes == "output":
            return module.register_forward_hook(self._change_output)
        return module.register_forward_pre_hook(self._change_input, with_kwargs=True)

    def _change_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:  # noqa: ARG002
        with self.tracker.watch_failures():
            hidden = output[0] if isinstance(output, tuple) else output
            steered = self._steer(hidden)
            if steered is None:
                return None
            return (steered, *output[1:]) if isinstance(output, tuple) else steered

    def _change_input(
        self,
        module: nn.Module,  # noqa: ARG002
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        with self.tracker.watch_failures():
            steered = self._steer(args[0] if args else kwargs.get("hidden_states"))
            if steered is None:
                return None
            return ((steered, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": steered})

    def _steer(self, hidden: Any) -> Tensor | None:
        if runs_unsteered():
            return None
        call = self.tracker.call
        if call is None:
            raise SteeringError("a steered layer ran outside the model's own forward: call the model, not a part of it")
        mask = call.steered(self.tokens, self.phase, self.image_ids, self.special_ids)
        if mask is None:
            return None
        if self._shares and isinstance(hidden, Tensor):
            # it may run on the last positions only: no later layer reads the others
            mask = mask[:, -hidden.shape[1] :]
        flat = isinstance(hidden, Tensor) and hidden.dim() == 2 and hidden.shape[0] == mask.numel()
        if flat:
            # some mixtures of experts return one row for each position of the batch
            hidden = hidden.view(*mask.shape, -1)
        if not isinstance(hidden, Tensor) or hidden.dim() != 3 or hidden.shape[:2] != mask.shape:
            actual = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
            raise SteeringError(
                f"layer {self.layer} has {actual} at site={self.site.name} for input_ids of shape"
                f" {tuple(call.input_ids.shape)}"
            )
        vector = self._vector_on(hidden.device)
        if is_row_vector(self.intervention.vector):
            vector = of_rows(self.intervention, vector, hidden)
        if vector.per_token:
            vector = vector.at_norms_of(hidden)
        steered = apply_operation(self.operation, hidden, vector, mask.to(hidden.device))
        if hidden.dtype == torch.float16 and not bool(torch.isfinite(steered).all() | ~torch.isfinite(hidden).all()):
            raise SteeringError(
                f"alpha={self.alpha:g}: the steered residual of layer {self.layer} overflows float16: use a smaller"
                " alpha, or dtype=bfloat16"
            )
        return steered.view(mask.numel(), -1) if flat else steered

    def _vector_on(self, device: torch.device) -> ScaledVector:
        if device not in self._on_device:
            delta, unit = self.vector.delta.to(device), self.vector.unit.to(device)
            self._on_device[device] = replace(self.vector, delta=delta, unit=unit)
        return self._on_device[device]
