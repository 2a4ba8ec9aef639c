"""What a model writes after one prompt at several strengths of its spec: greedy continuations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lmms_steer.harness.steered import SteeredVlm
from lmms_steer.harness.steered_text import SteeredText
from lmms_steer.inspection.strengths import specs_by_strength
from lmms_steer.steering.decoder_inputs import decoder_ids
from lmms_steer.steering.hooks import steer
from lmms_steer.steering.spec import SteeringSpec


@dataclass(frozen=True, slots=True)
class Continuation:
    """What is written at one strength.

    Attributes:
        strength: its name: `alpha 0.5`.
        text: the new tokens as text, without special tokens.
    """

    strength: str
    text: str


def continuations(
    lm: SteeredVlm | SteeredText, inputs: dict[str, Any], alphas: Sequence[float] | None, new_tokens: int
) -> list[Continuation]:
    """Generate greedily at each strength.

    Args:
        lm: the model with its spec; its hooks must not be attached.
        inputs: one prompt, as `model_inputs` gives it.
        alphas: as for `lmms_steer.inspection.strengths.specs_by_strength`.
        new_tokens: how many tokens to generate at most.

    Raises:
        UserError: for alphas, but a spec of none or several interventions.
    """
    specs = specs_by_strength(lm.resolved.spec, alphas)
    return [Continuation(strength, _generate(lm, inputs, spec, new_tokens)) for strength, spec in specs.items()]


@torch.inference_mode()
def _generate(lm: SteeredVlm | SteeredText, inputs: dict[str, Any], spec: SteeringSpec, new_tokens: int) -> str:
    with steer(lm.model, replace(lm.resolved, spec=spec), special_ids=lm.tokenizer.all_special_ids):
        output = lm.model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    return str(lm.tokenizer.decode(output[0, decoder_ids(inputs).shape[1] :], skip_special_tokens=True))
