"""What the gate of an intervention decides, from hidden states that somebody else has read."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lmms_steer._util.code import is_built_in
from lmms_steer.errors import SteeringError
from lmms_steer.steering.gates import Probe, gates, probe_numbers
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.operations import checked_tensor, failures_of
from lmms_steer.steering.sites import DEFAULT_SITE, sites
from lmms_steer.vectors.steering_vectors import SteeringVectors


class GateReader:
    """The gate of one intervention.

    Args:
        intervention: complete, at one layer, with a gate.
        vectors: what the gate compares hidden states with.

    Attributes:
        layer, site: the place of the hidden states that it reads.
        read: whose hidden state decides, one of `gates.READS`.
        prompt_tokens: where `read` is not `token`: the token target whose mean decides.
        observer: called with the scores each time that they are read; None for nobody.
    """

    def __init__(self, intervention: Intervention, vectors: SteeringVectors) -> None:
        assert intervention.gate is not None and intervention.layer is not None
        self.gate = gates.get(intervention.gate)
        self.threshold = self.gate.threshold if intervention.threshold is None else intervention.threshold
        self.read = intervention.read or self.gate.read
        self.prompt_tokens = "last" if self.read == "last" else "both"
        self.above = intervention.fires == "above"
        own = intervention.gate_layer is None
        self.layer = intervention.layer if intervention.gate_layer is None else intervention.gate_layer
        self.site = sites.get(intervention.site if own else DEFAULT_SITE)
        direction = torch.from_numpy(vectors[self.layer].copy())
        numbers = probe_numbers(vectors, self.layer) if self.gate.needs_probe else (1.0, 0.0)
        self.observer: Callable[[Tensor], None] | None = None
        self._probe = Probe(direction, *numbers)
        self._on_device: dict[torch.device, Probe] = {}

    def __str__(self) -> str:
        return f"gate={self.gate.name},read={self.read}"

    def fires(self, hidden: Tensor) -> Tensor:
        """Whether the intervention acts; hidden states [..., width] ▸ bool [...].

        Raises:
            SteeringError: if the gate fails, or returns anything but a tensor of this shape; if one that is not of this
            package returns nan.
        """
        given = hidden.float()
        # a function that changes its argument in place must not reach the model's own tensor
        given = given.clone() if given is hidden else given
        probe = self._probe_on(hidden.device)
        if not is_built_in(self.gate.function):
            # nor the direction, which every call is given
            probe = replace(probe, direction=probe.direction.clone())
        what = f"gate {self.gate.name!r}"
        with failures_of(what):
            returned = self.gate.function(given, probe)
            scores = checked_tensor(what, returned, hidden.shape[:-1], hidden).to(hidden.device)
        if not is_built_in(self.gate.function):
            # positions of padding may hold zeros, which have no direction
            unknown = scores.isnan() & hidden.isfinite().all(-1) & hidden.any(-1)
            if bool(unknown.any()):
                raise SteeringError(f"{what} returned nan, which is on neither side of the threshold")
        if self.observer is not None:
            self.observer(scores)
        return scores > self.threshold if self.above else scores < self.threshold

    def of_prompts(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Whether the intervention acts on each sequence.

        Args:
            hidden: [batch, positions, width].
            mask: bool [batch, positions], the positions of `prompt_tokens`.

        Returns:
            bool [batch, 1].

        Raises:
            SteeringError: for a row without such a position.
        """
        mask = mask.to(hidden.device)
        counts = mask.sum(1, keepdim=True)
        if not counts.all():
            raise SteeringError(f"{self}: a row of the batch has no prompt to read")
        read = hidden.float().masked_fill(~mask.unsqueeze(-1), 0.0).sum(1) / counts
        return self.fires(read).unsqueeze(1)

    def _probe_on(self, device: torch.device) -> Probe:
        if device not in self._on_device:
            own = self._probe
            self._on_device[device] = Probe(own.direction.to(device), own.weight_norm, own.bias)
        return self._on_device[device]
