"""What the interventions of a spec do to one prompt: in words, and measured while the model runs."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmms_steer.steering.gate_hook import GateHook
from lmms_steer.steering.gates import gates
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.operations import Operation, ScaledVector
from lmms_steer.steering.recording import record_site
from lmms_steer.steering.sites import DEFAULT_SITE, sites

Place = tuple[str, int]
"""A site and a layer."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What one intervention does at one layer, with one strength.

    Attributes:
        intervention: at this layer alone.
        operation: what is done.
        vector: with what.
        scores: what its gate read, [1, positions], or one score for the whole prompt; None without a gate.
    """

    intervention: Intervention
    operation: Operation
    vector: ScaledVector
    scores: Tensor | None = None

    def describe(self, tokens: Tensor) -> str:
        """What is done to which tokens: `image: 3.2 along v is added`, with the site where it is not the residual.

        Args:
            tokens: bool [positions], those that the intervention is for.
        """
        done = self.operation.describe(self.vector)
        if not in_decoder(self.intervention):
            return f"{self.intervention.site}: {done}"
        site = "" if self.intervention.site == DEFAULT_SITE else f"{self.intervention.site}, "
        return f"{site}{self.intervention.tokens}: {done}{self._condition(tokens)}"

    def _condition(self, tokens: Tensor) -> str:
        """The gate in words, with the scores that it read; "" without one."""
        if self.intervention.gate is None:
            return ""
        gate = gates.get(self.intervention.gate)
        threshold = gate.threshold if self.intervention.threshold is None else self.intervention.threshold
        whose = {"token": "where the token's", "prompt": "if the prompt's mean", "last": "if the last prompt token's"}
        read = self.intervention.read or gate.read
        return f", {whose[read]} {gate.name} is {self.intervention.fires} {threshold:g}{self._read(tokens)}"

    def _read(self, tokens: Tensor) -> str:
        if self.scores is None:
            return ""
        scores = self.scores.flatten()
        if scores.numel() == 1:
            return f" (here {scores.item():.3g})"
        # a layer may run on the last positions only
        scores = scores[tokens[-scores.numel() :].to(scores.device)]
        return f" (here from {scores.min():.3g} to {scores.max():.3g})" if scores.numel() else ""


def in_decoder(intervention: Intervention) -> bool:
    """Whether an intervention is in the decoder, and not in a vision tower."""
    return sites.get(intervention.site).tower == "decoder"


def place_of(intervention: Intervention) -> Place:
    """Where an intervention at one layer acts."""
    assert intervention.layer is not None
    return intervention.site, intervention.layer


@contextmanager
def record_places(model: nn.Module, places: Collection[Place], before: bool) -> Iterator[Mapping[Place, list[Tensor]]]:
    """Record the tensors of several places while the model runs.

    Args:
        model: the model.
        places: of the decoder.
        before: whether they are recorded before the hooks that are there act, or after them.
    """
    with ExitStack() as stack:
        yield {place: stack.enter_context(record_site(model, *place, before=before)) for place in sorted(places)}


@contextmanager
def read_scores(hooks: Sequence[GateHook]) -> Iterator[list[list[Tensor]]]:
    """The scores that each gate reads in the block, a tensor for each time that it is read."""
    seen: list[list[Tensor]] = [[] for _ in hooks]
    for hook, scores in zip(hooks, seen, strict=True):
        hook.reader.observer = scores.append
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.reader.observer = None


def changed_positions(before: Tensor, after: Tensor, n: int) -> Tensor:
    """Which of a prompt's n positions differ, bool [n]; the tensors may hold its last positions only."""
    width = before.shape[-1]
    differ = (before.reshape(-1, width) != after.reshape(-1, width)).any(-1).cpu()
    return torch.cat([differ.new_zeros(n - len(differ)), differ])
