"""The hook that reads a gate: whether an intervention acts on a token, or on a sequence.

A decision about a sequence is made once, on its prompt. While `generate` runs, it is kept with that call, for each
prompt of the batch, and holds for all of a prompt's beams and for the tokens that follow.
"""

from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lmms_steer.errors import SteeringError
from lmms_steer.steering.anatomy import shares_keys
from lmms_steer.steering.calls import CallTracker, ForwardCall
from lmms_steer.steering.gate_reader import GateReader
from lmms_steer.steering.intervention import Intervention
from lmms_steer.steering.placeholders import Placeholders
from lmms_steer.steering.site_tensor import per_position, register_steering
from lmms_steer.steering.sites import find_module
from lmms_steer.vectors.steering_vectors import SteeringVectors


class GateHook:
    """Reads the gate of one intervention in every forward call.

    Args:
        intervention: complete, at one layer, with a gate.
        vectors: what the gate compares hidden states with.
        media: the model's placeholders.
        tracker: knows the forward call in progress.
    """

    def __init__(
        self, intervention: Intervention, vectors: SteeringVectors, media: Placeholders, tracker: CallTracker
    ) -> None:
        self.reader = GateReader(intervention, vectors)
        self.layer, self.site = self.reader.layer, self.reader.site
        self.media, self.tracker = media, tracker
        self._shares = False

    def check(self, layers: nn.ModuleList) -> None:
        """Check that the gate can be read in a model.

        Raises:
            UserError: for a layer without the site's module.
        """
        find_module(self.site, layers, self.layer)

    def register(self, layers: nn.ModuleList) -> RemovableHandle:
        """Register the hook in the model. The intervention's own hook must be registered after it."""
        self._shares = shares_keys(layers[self.layer])
        return register_steering(self.site, layers, self.layer, self._look)

    def allowed(self, call: ForwardCall, mask: Tensor) -> Tensor:
        """The steered positions where the gate allows it.

        Args:
            call: the forward call in progress.
            mask: bool [batch, positions] of the site, which may be the call's last positions only.

        Raises:
            SteeringError: if the gate could not be read, because the call does not run on the whole prompt.
        """
        decision = call.decisions.get(self)
        if decision is None:
            raise SteeringError(
                f"{self.reader} reads the whole prompt, and this forward call runs on a part"
                " of it, or does not show its padding: use model.generate without prefill_chunk_size and without a"
                " filled cache, or read=token"
            )
        decision = decision.to(mask.device)
        return mask & (decision if decision.shape[1] == 1 else decision[:, -mask.shape[1] :])

    def _look(self, value: Any) -> None:
        with self.tracker.watch_failures():
            call = self.tracker.call
            decision = None if call is None else self._decide(value, call)
            if call is not None and decision is not None:
                call.decisions[self] = decision

    def _decide(self, value: Any, call: ForwardCall) -> Tensor | None:
        """bool [batch, positions] for tokens, [batch, 1] for sequences; None if the call does not show the prompt."""
        if self.reader.read == "token":
            shape = (call.input_ids.shape[0], value.shape[1]) if self._shares else tuple(call.input_ids.shape)
            return self.reader.fires(per_position(value, shape, self.layer, self.site.name))
        generation = call.generation
        if generation is None:
            return self._of_prompts(value, call)
        if self not in generation.decisions:
            decision = self._of_prompts(value, call)
            if decision is None:
                return None
            generation.decisions[self] = decision[:: len(decision) // len(generation.known_ids())]
        return generation.columns(generation.decisions[self], generation.start, len(call.input_ids))

    def _of_prompts(self, value: Any, call: ForwardCall) -> Tensor | None:
        """bool [batch, 1], from the prompt; None if the call does not run on the whole prompt."""
        generation = call.generation
        partial = generation is not None and (generation.start or generation.end > call.input_ids.shape[1])
        if call.offset or call.all_generated or partial or not call.mask_known:
            return None
        hidden = per_position(value, tuple(call.input_ids.shape), self.layer, self.site.name)
        mask = call.steered(self.reader.prompt_tokens, "prefill", self.media, None)
        assert mask is not None
        return self.reader.of_prompts(hidden, mask)
