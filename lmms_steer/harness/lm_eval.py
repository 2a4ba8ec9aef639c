"""Steered models for lm-evaluation-harness: its Hugging Face models with the keys of a spec among their arguments.

`steered_hf` is its `hf` (text) and `steered_hf_multimodal` its `hf-multimodal` (generation only). lm-eval 0.4.13 has no
entry points for models, so `lmms-steer lm-eval …` registers both and then runs lm-eval's own command line.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lm_eval.api.registry import model_registry
from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import AutoConfig

from lmms_steer._util.logging import print_notes
from lmms_steer.harness.steered import SteeringMixin
from lmms_steer.models.loading import load_or_refuse
from lmms_steer.steering.positions import continuation
from lmms_steer.vectors.backbones import checkpoint


class _SteeredLmEval(SteeringMixin):
    """What both models share: the spec is resolved before the weights are loaded, and attached afterwards."""

    def __init__(self, pretrained: Any, **model_args: Any) -> None:
        self.take_spec(model_args)
        self.pretrained = str(pretrained)
        source = checkpoint(self.pretrained)
        trust_remote_code = model_args.get("trust_remote_code") is True
        revision = {"revision": model_args["revision"]} if "revision" in model_args else {}
        config = load_or_refuse(
            self.pretrained, AutoConfig.from_pretrained, source, trust_remote_code=trust_remote_code, **revision
        )
        self.resolve_for(config)
        super().__init__(pretrained=source, **model_args)  # type: ignore[call-arg]
        wrapper: Any = self
        self.attach_to(wrapper.model, getattr(self, "processor", None) or wrapper.tokenizer)

    def get_model_info(self) -> dict[str, Any]:
        """The `config` entry of the results file: lm-eval's own, and the record of the steering."""
        parent: Any = super()
        return {**parent.get_model_info(), "steering": self.steering_record}


class SteeredHFLM(_SteeredLmEval, HFLM):  # type: ignore[misc]
    """`--model steered_hf`.

    A scored continuation counts as generated text, so phase `prefill` steers its context only. (lm-eval's own `steered`
    steers every position, as phase `all` does.)
    """

    text_only = True

    def __init__(self, pretrained: Any, **model_args: Any) -> None:
        # input ids of a request ▸ how many of the last of them are the answer's
        self._answer_lengths: dict[tuple[int, ...], int] = {}
        super().__init__(pretrained, **model_args)

    def _loglikelihood_tokens(self, requests: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        longest = self.max_length + 1
        for _, context, answer in requests:
            # the last token is predicted but never part of the input
            self._answer_lengths[tuple((context + answer)[-longest:][:-1])] = len(answer) - 1
        try:
            return super()._loglikelihood_tokens(requests, *args, **kwargs)
        finally:
            self._answer_lengths.clear()

    def _model_call(self, inps: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.handles or not self._answer_lengths:
            return super()._model_call(inps, *args, **kwargs)
        with continuation(torch.tensor([self._answer_length(row) for row in inps.tolist()])):
            return super()._model_call(inps, *args, **kwargs)

    def _answer_length(self, row: list[int]) -> int:
        """The number of positions of a row that are answer, or padding after it."""
        for end in range(len(row), 0, -1):
            answer = self._answer_lengths.get(tuple(row[:end]))
            if answer is not None:
                return len(row) - end + answer
        return 0


class SteeredHFMultimodalLM(_SteeredLmEval, HFMultimodalLM):  # type: ignore[misc]
    """`--model steered_hf_multimodal`."""


def register() -> None:
    """Register both models with lm-eval, by the names in this module's docstring."""
    import lm_eval.models  # noqa: F401  lm-eval fills its registry only while it is empty

    for name, model in (("steered_hf", SteeredHFLM), ("steered_hf_multimodal", SteeredHFMultimodalLM)):
        if name not in model_registry:
            model_registry.register(name, target=model)


def run(arguments: list[str]) -> None:
    """Run lm-eval's command line with our models registered.

    Args:
        arguments: the command line after `lm-eval`.
    """
    import sys

    from lm_eval.__main__ import cli_evaluate

    register()
    print_notes()
    sys.argv = ["lm-eval", *arguments]
    cli_evaluate()
