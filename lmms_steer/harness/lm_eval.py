"""lm-evaluation-harness: its Hugging Face models with the keys of a spec among their arguments.

`steered_hf` is its `hf` (text), `steered_hf_multimodal` its `hf-multimodal` (it generates). lm-eval 0.4.13 has
no entry points: `lmms-steer lm-eval …` registers both and is lm-eval's own command line otherwise.
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
    def __init__(self, pretrained: Any, **model_args: Any) -> None:
        self.take_spec(model_args)
        self._answers: dict[tuple[int, ...], int] = {}
        self.pretrained = str(pretrained)
        source = checkpoint(self.pretrained)
        trusted = model_args.get("trust_remote_code") is True
        revision = {"revision": model_args["revision"]} if "revision" in model_args else {}
        config = load_or_refuse(
            self.pretrained, AutoConfig.from_pretrained, source, trust_remote_code=trusted, **revision
        )
        self.resolve_for(config)
        super().__init__(pretrained=source, **model_args)  # type: ignore[call-arg]
        held: Any = self
        self.attach_to(held.model, getattr(self, "processor", None) or held.tokenizer)

    def get_model_info(self) -> dict[str, Any]:
        """What the results file says under `config`: lm-eval's own, and what was done to the model."""
        parent: Any = super()
        return {**parent.get_model_info(), "steering": self.steering_record}


class SteeredHFLM(_SteeredLmEval, HFLM):  # type: ignore[misc]
    """`--model steered_hf`.

    A continuation that is scored counts as generated text: phase `prefill` steers its context only. (lm-eval's own
    `steered` steers every position: phase `all`.)
    """

    def _loglikelihood_tokens(self, requests: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        longest = self.max_length + 1
        for _, context, answer in requests:
            # the model is shown all but the last token, which is only asked for
            self._answers[tuple((context + answer)[-longest:][:-1])] = len(answer) - 1
        try:
            return super()._loglikelihood_tokens(requests, *args, **kwargs)
        finally:
            self._answers.clear()

    def _model_call(self, inps: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.handles or not self._answers:
            return super()._model_call(inps, *args, **kwargs)
        with continuation(torch.tensor([self._after_prompt(row) for row in inps.tolist()])):
            return super()._model_call(inps, *args, **kwargs)

    def _after_prompt(self, row: list[int]) -> int:
        """Positions of a row that are answer, or padding behind it."""
        for end in range(len(row), 0, -1):
            answer = self._answers.get(tuple(row[:end]))
            if answer is not None:
                return len(row) - end + answer
        return 0


class SteeredHFMultimodalLM(_SteeredLmEval, HFMultimodalLM):  # type: ignore[misc]
    """`--model steered_hf_multimodal`."""


def register() -> None:
    """Make both known to lm-eval, by the names of this module's docstring."""
    import lm_eval.models  # noqa: F401  an empty registry would not be filled any more

    for name, model in (("steered_hf", SteeredHFLM), ("steered_hf_multimodal", SteeredHFMultimodalLM)):
        if name not in model_registry:
            model_registry.register(name, target=model)


def run(arguments: list[str]) -> None:
    """lm-eval's command line, with our models."""
    import sys

    from lm_eval.__main__ import cli_evaluate

    register()
    print_notes()
    sys.argv = ["lm-eval", *arguments]
    cli_evaluate()
