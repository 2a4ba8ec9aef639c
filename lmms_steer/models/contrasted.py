"""Run a contrast with a model: its branches in one batch, in generation and in scoring."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from lmms_steer.errors import UserError
from lmms_steer.models.contrast_inputs import joined_inputs, require_images, with_noise
from lmms_steer.models.contrasts import ContrastSettings, ContrastStep
from lmms_steer.models.visuals import Visual, blank_visuals

RULED_OUT = 1e4
"""How far below its plain log-probability a scored token lies that a contrast rules out, in nats: its probability is 0,
and answers of such tokens still have an order and a finite loss."""


class ContrastedDecoding:
    """A contrast on one model.

    Args:
        settings: which contrast, with its settings; not those of the plain model.
        lm: the model's wrapper, with `model_inputs` and a tokenizer.
    """

    def __init__(self, settings: ContrastSettings, lm: Any) -> None:
        self.settings, self.lm = settings, lm
        self.branch = settings.contrast.branch
        if self.branch == "image" and settings.image == "absent" and lm.prompt_format.name == "paligemma":
            raise UserError(
                f"contrast={settings.contrast.name},contrast_image=absent: PaliGemma needs an image with every"
                " question; choose contrast_image=blank"
            )

    def inputs(
        self, questions: Sequence[str], visuals: Sequence[Sequence[Visual]], answers: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Model inputs of both branches: the rows of the questions, then as many contrasted ones.

        Raises:
            UserError: for a question without an image where the contrast needs one.
        """
        if self.branch == "image":
            require_images(questions, visuals, self.settings.contrast.name)
        plain: dict[str, Any] = self.lm.model_inputs(questions, visuals, answers)
        if not self.branch:
            return plain
        if self.branch == "text":
            other = self.lm.model_inputs([f"{self.settings.text}\n{one}" for one in questions], visuals, answers)
        elif self.settings.image == "noise":
            other = with_noise(plain, self.settings.seed)
        else:
            shown = [blank_visuals(own) if self.settings.image == "blank" else [] for own in visuals]
            other = self.lm.model_inputs(questions, shown, answers)
        joined = joined_inputs(plain, other, self.lm.tokenizer.pad_token_id or 0)
        if answers is not None and not torch.equal(*joined["labels"].chunk(2)):
            raise UserError(
                f"contrast={self.settings.contrast.name}: an answer has other tokens in the contrasted branch"
            )
        return joined

    def generation_options(
        self, questions: int, prompt: int, decoding: Mapping[str, Any]
    ) -> tuple[LogitsProcessorList, StoppingCriteriaList]:
        """What makes `generate` decode by the contrast.

        Args:
            questions: the number of questions in the batch.
            prompt: the length of the prompt in positions, padding included.
            decoding: the options of `generate`.

        Raises:
            UserError: for beams, which would need the branches reordered together, and a penalty that would act before
                the contrast.
        """
        for name in ("num_beams", "repetition_penalty"):
            if decoding.get(name, 1) != 1:
                raise UserError(
                    f"generation_kwargs: {name}={decoding[name]} is not supported with"
                    f" contrast={self.settings.contrast.name}: leave it out"
                )
        branches = LogitsProcessorList([_Contrasting(self, questions, prompt)])
        return branches, StoppingCriteriaList([_Following(questions)] if self.branch else [])

    def scores(self, logits: Tensor, place: Tensor, ruled_out: float | None = None) -> Tensor:
        """The contrast's scores at some positions, in float32.

        Args:
            logits: [rows of both branches, …, vocabulary].
            place: int [questions, …], how many tokens of the answer precede each position.
            ruled_out: how far below its plain log-probability a token lies that is ruled out; None: minus infinity.

        Returns:
            [questions, …, vocabulary].
        """
        shape = (*place.shape, logits.shape[-1])
        plain = logits[: len(place)].float().flatten(0, -2)
        contrasted = logits[len(place) :].float().flatten(0, -2) if self.branch else None
        step = ContrastStep(plain, contrasted, place.flatten())
        # what `generate` has ruled out stays so, where a formula would subtract infinity from infinity
        scores = self.settings.contrast.function(step, self.settings).masked_fill(plain.isneginf(), -torch.inf)
        if ruled_out is not None:
            scores = (plain.log_softmax(-1) - ruled_out).where(scores.isneginf(), scores)
        return scores.reshape(shape)


class _Contrasting(LogitsProcessor):  # type: ignore[misc]
    """Replaces the questions' scores; those of the contrasted rows are not used."""

    def __init__(self, decoding: ContrastedDecoding, questions: int, prompt: int) -> None:
        self.decoding, self.questions, self.prompt = decoding, questions, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        place = input_ids.new_full((self.questions,), input_ids.shape[1] - self.prompt)
        return torch.cat([self.decoding.scores(scores, place), scores[self.questions :]])


class _Following(StoppingCriteria):  # type: ignore[misc]
    """Gives each contrasted row the token that its question's row has got, and counts it as finished itself."""

    def __init__(self, questions: int) -> None:
        self.questions = questions

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:  # noqa: ARG002
        input_ids[self.questions :, -1] = input_ids[: self.questions, -1]
        return torch.arange(len(input_ids), device=input_ids.device) >= self.questions
