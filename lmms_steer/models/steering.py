"""What makes a wrapper a steered one, whatever it wraps: the spec in its arguments, the hooks, what is logged."""

import hashlib
import json
from typing import Any

from lmms_steer.extraction.first_use import extract_missing
from lmms_steer.intervention.hooks import attach
from lmms_steer.models.answer_bias import AnswerBias
from lmms_steer.models.relative import measured
from lmms_steer.notes import note, warn
from lmms_steer.resolve import ModelFacts, resolve
from lmms_steer.resolved import ResolvedSpec
from lmms_steer.spec import FIELDS, SteeringSpec


class Steering:
    """For a subclass of a harness's model class to inherit from first.

    Attributes:
        pretrained: the checkpoint as the user named it.
        spec: what the user said.
        resolved: what is done.
        handles: of the attached hooks.
    """

    pretrained: str
    spec: SteeringSpec = SteeringSpec()
    resolved: ResolvedSpec = ResolvedSpec()
    handles: list[Any]
    answer_bias: AnswerBias | None = None
    response_cache_in_use: bool = False

    def take_spec(self, model_args: dict[str, Any]) -> None:
        """Take the keys of a spec out of the arguments.

        Raises:
            UserError: for a spec that cannot be read.
        """
        self.spec = SteeringSpec.from_args({k: model_args.pop(k) for k in ("steering", *FIELDS) if k in model_args})

    def resolve_for(self, config: Any, rank: int = 0) -> None:
        """Find the vectors, extract those that no store has, fill in what is unsaid, and say so.

        Raises:
            UserError: for whatever is wrong with the spec or its vectors.
        """
        text = config.get_text_config(decoder=True)
        for line in extract_missing(self.spec, self.pretrained):
            note(line)
        self.resolved = resolve(self.spec, ModelFacts(self.pretrained, text.num_hidden_layers, text.hidden_size))
        if rank == 0:
            for line in self.resolved.notes:
                note(line)
            for line in self.resolved.warnings:
                warn(line)

    def attach_to(self, model: Any, processor: Any) -> None:
        """Attach the hooks; where a strength is relative, measure the residual's norms first, or read them.

        Raises:
            UserError: as `attach`.
        """
        self.resolved = measured(self.resolved, model, processor, self.pretrained)
        tokenizer = getattr(processor, "tokenizer", processor)
        self.handles = attach(model, self.resolved, getattr(tokenizer, "all_special_ids", ()))

    @property
    def steering_record(self) -> dict[str, Any]:
        """What the results file says under `steering`."""
        bias = {"answer_bias": self.answer_bias.words} if self.answer_bias else {}
        return {"model": self.pretrained, **self.resolved.record(), **bias}

    @property
    def cache_key(self) -> str | None:
        """A hash of the vectors and biases that were read from files, for caches of answers; None for the baseline."""
        if not self.resolved.spec and not self.answer_bias:
            return None
        held = self.answer_bias
        bias = sorted(zip(held.ids, held.words.values(), strict=True)) if held is not None else []
        done = [self.resolved.sha256, bias]
        return hashlib.sha256(json.dumps(done).encode()).hexdigest()
