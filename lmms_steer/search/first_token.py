"""The first token that `generate` would choose: a replay has its logits before `generate` begins."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    LogitsProcessor,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from lmms_steer.errors import shorten
from lmms_steer.steering.anatomy import generating_part

_PROCESSORS: dict[str, Callable[[Any, Any, torch.device], LogitsProcessor]] = {
    "repetition_penalty": lambda value, _, __: RepetitionPenaltyLogitsProcessor(value),
    "no_repeat_ngram_size": lambda value, _, __: NoRepeatNGramLogitsProcessor(value),
    "bad_words_ids": lambda value, ends, _: NoBadWordsLogitsProcessor(value, ends),
    "suppress_tokens": lambda value, _, device: SuppressTokensLogitsProcessor(value, device),
}
"""Setting ▸ what applies it, from its value, the ids that end a text, and the device; in the order of `generate`."""
_OTHERS = (
    "begin_suppress_tokens", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty",
    "exponential_decay_length_penalty", "forced_bos_token_id", "forced_eos_token_id", "guidance_scale", "min_length",
    "min_new_tokens", "num_beams", "sequence_bias", "watermarking_config",
)  # fmt: skip
"""The other settings that change which token is chosen greedily, or when a text ends."""


class FirstToken:
    """Chooses the first token as `generate` does with a task's settings.

    Args:
        model: the model, whose own generation config counts too.
        settings: options of `generate`.

    Attributes:
        why_hooks: the settings that only `generate` itself can apply, in words; empty where there are none.
    """

    def __init__(self, model: Any, settings: Mapping[str, Any]) -> None:
        inner = generating_part(model)
        config: GenerationConfig = (inner or model).generation_config
        names = (*_PROCESSORS, *_OTHERS)
        values = {name: settings.get(name, getattr(config, name, None)) for name in names}
        active = {name: value for name, value in values.items() if _changes(name, value)}
        # the language model inside may not see the ids of the prompt
        refused = [name for name in active if name in _OTHERS or inner is not None]
        what = ", ".join(f"{name}={shorten(active[name])}" for name in refused)
        self.why_hooks = f"a replay cannot apply {what}" if refused else ""
        self._values, self._ends = active, config.eos_token_id

    def choose(self, logits: Tensor, prompts: Tensor) -> Tensor:
        """The token ids, [cells, batch].

        Args:
            logits: of the first token, [cells, batch, vocabulary].
            prompts: the prompts' token ids, [batch, positions].
        """
        if not self._values:
            return logits.argmax(-1)
        ids: Any = prompts.repeat(len(logits), 1)
        scores: Any = logits.flatten(0, 1).float()
        for name, make in _PROCESSORS.items():
            if name in self._values:
                scores = make(self._values[name], self._ends, logits.device)(ids, scores)
        chosen: Tensor = scores.argmax(-1)
        return chosen.view(logits.shape[:2])


def _changes(name: str, value: Any) -> bool:
    """Whether a setting changes anything: 0 and 1 turn off those that are not token ids."""
    if value is None or value in ([], {}):
        return False
    return name.endswith("_token_id") or value not in (0, 1)
