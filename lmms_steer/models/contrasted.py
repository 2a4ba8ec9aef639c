"""Run a contrast with a model: its branches in one batch, in generation and in scoring."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from lmms_steer._util.code import is_built_in
from lmms_steer.errors import UserError
from lmms_steer.models.contrast_inputs import joined_inputs, require_images, with_noise
from lmms_steer.models.contrasts import ContrastSettings, ContrastStep
from lmms_steer.models.early_layers import EarlyLayers, read_layers
from lmms_steer.models.generation import log_once
from lmms_steer.models.prompt_formats import without_placeholders
from lmms_steer.models.visuals import Visual, blank_visuals

RULED_OUT = 1e4
"""How far below its plain log-probability a scored token lies that a contrast rules out, in nats: its probability is 0,
and answers of such tokens still have an order and a finite loss."""
_NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
"""Options of `generate` that no contrast supports ▸ the values that change nothing."""


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
        depth = lm.config.get_text_config(decoder=True).num_hidden_layers
        self.early = EarlyLayers(read_layers(settings.layers, depth)) if self.branch == "layers" else None
        self.words = _first_tokens(lm, settings.contrast.words)
        self.has_rows = self.branch in ("image", "text")

    def inputs(
        self, questions: Sequence[str], visuals: Sequence[Sequence[Visual]], answers: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Model inputs of both branches: the rows of the questions, then as many contrasted ones.

        Raises:
            UserError: for a question without an image where the contrast needs one.
        """
        if self.branch == "suffix":
            questions = [f"{question} {self.settings.text}" for question in questions]
        if self.branch == "image":
            require_images(questions, visuals, self.settings.contrast.name, self.settings.image)
        plain: dict[str, Any] = self.lm.model_inputs(questions, visuals, answers)
        if not self.has_rows:
            return plain
        if self.branch == "text":
            other = self.lm.model_inputs([f"{self.settings.text}\n{one}" for one in questions], visuals, answers)
        elif self.settings.image == "noise":
            other = with_noise(plain, self.settings.seed)
        else:
            shown = [blank_visuals(own) if self.settings.image == "blank" else [] for own in visuals]
            # prompt formats leave image placeholders in a text that is shown without an image
            texts = [without_placeholders(self.lm.processor, question) for question in questions]
            other = self.lm.model_inputs(texts, shown, answers)
        joined = joined_inputs(plain, other, self.lm.tokenizer.pad_token_id or 0)
        if answers is not None and not torch.equal(*joined["labels"].chunk(2)):
            raise UserError(
                f"contrast={self.settings.contrast.name}: an answer has other tokens in the contrasted branch"
            )
        return joined

    def decoding(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options of `generate` without beams, which would need the branches reordered together, and without
        penalties on repetition, which would act before the contrast and on each branch for itself.

        Args:
            options: from the task. The checkpoint's own ones are replaced, since a user does not set them.

        Raises:
            UserError: for beams or a penalty.
        """
        contrast, own = self.settings.contrast.name, getattr(self.lm.model, "generation_config", None)
        for name, neutral in _NEUTRAL.items():
            if options.get(name, neutral) != neutral:
                raise UserError(
                    f"generation_kwargs: {name}={options[name]} is not supported with contrast={contrast}: leave it out"
                )
            if (configured := getattr(own, name, None)) not in (None, neutral):
                log_once(
                    logging.INFO,
                    f"{name}={configured:g} of the checkpoint's generation_config is left out, because"
                    f" contrast={contrast} does not support it",
                )
        return {**options, **_NEUTRAL}

    def generation_options(self, questions: int, prompt: int) -> tuple[LogitsProcessorList, StoppingCriteriaList]:
        """What makes `generate` decode by the contrast.

        Args:
            questions: the number of questions in the batch.
            prompt: the length of the prompt in positions, padding included.
        """
        branches = LogitsProcessorList([_Contrasting(self, questions, prompt)])
        return branches, StoppingCriteriaList([_Following(questions)] if self.has_rows else [])

    def reading(self) -> AbstractContextManager[None]:
        """The block in which the model runs, for contrasts that read its layers."""
        return self.early.reading(self.lm.model) if self.early is not None else nullcontext()

    def scores(self, logits: Tensor, place: Tensor, last: int | None, ruled_out: float | None = None) -> Tensor:
        """The contrast's scores at some positions, in float32.

        Args:
            logits: [rows of both branches, positions, vocabulary].
            place: int [questions, positions], how many tokens of the answer precede each position.
            last: where the positions end in the forward call, as the end of a slice.
            ruled_out: how far below its plain log-probability a token lies that is ruled out; None: minus infinity.

        Returns:
            [questions, positions, vocabulary].

        Raises:
            UserError: for a contrast that is not this package's and returns something else, nan or infinity.
        """
        shape = (*place.shape, logits.shape[-1])
        plain = logits[: len(place)].float().flatten(0, 1)
        contrasted = logits[len(place) :].float().flatten(0, 1) if self.has_rows else None
        if self.early is not None:
            positions = slice((last or 0) - place.shape[1], last)
            contrasted = self.early.logits(self.lm.model, positions).to(plain.device).flatten(0, 1)
        step = ContrastStep(plain, contrasted, place.flatten(), self.words)
        # what `generate` has ruled out stays so, where a formula would subtract infinity from infinity
        contrast = self.settings.contrast
        scores = contrast.function(step, self.settings)
        own = not is_built_in(contrast.function)
        if own and (not isinstance(scores, Tensor) or scores.shape != plain.shape or not scores.is_floating_point()):
            given = f"shape {list(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
            raise UserError(
                f"contrast={contrast.name} returned {given} for logits of shape {list(plain.shape)}: expected real"
                " numbers of this shape"
            )
        scores = scores.masked_fill(plain.isneginf(), -torch.inf)
        if own and bool((scores.isnan() | scores.isposinf()).any()):
            # the first nan would be the likeliest token
            raise UserError(f"contrast={contrast.name} returned nan or infinity: rule tokens out with minus infinity")
        if ruled_out is not None:
            scores = (plain.log_softmax(-1) - ruled_out).where(scores.isneginf(), scores)
        return scores.reshape(shape)


class _Contrasting(LogitsProcessor):  # type: ignore[misc]
    """Replaces the questions' scores; those of the contrasted rows are not used."""

    def __init__(self, decoding: ContrastedDecoding, questions: int, prompt: int) -> None:
        self.decoding, self.questions, self.prompt = decoding, questions, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        place = input_ids.new_full((self.questions, 1), input_ids.shape[1] - self.prompt)
        contrasted = self.decoding.scores(scores.unsqueeze(1), place, last=None).squeeze(1)
        return torch.cat([contrasted, scores[self.questions :]])


class _Following(StoppingCriteria):  # type: ignore[misc]
    """Gives each contrasted row the token that its question's row has got, and counts it as finished itself."""

    def __init__(self, questions: int) -> None:
        self.questions = questions

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:  # noqa: ARG002
        input_ids[self.questions :, -1] = input_ids[: self.questions, -1]
        return torch.arange(len(input_ids), device=input_ids.device) >= self.questions


def _first_tokens(lm: Any, words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Word ▸ the ids of the tokens that begin an answer with it, in small letters or capitalised.

    Raises:
        UserError: if the tokenizer does not have a word, or cannot tell two of them apart by their first token.
    """
    found = {word: {lm.first_token(one) for one in (word, word.capitalize())} for word in words}
    ids = {word: tuple(sorted(own - {lm.tokenizer.unk_token_id})) for word, own in found.items()}
    known = [one for own in ids.values() for one in own]
    if not all(ids.values()) or len(set(known)) < len(known):
        raise UserError(
            f"{lm.pretrained} does not tell answers of {' and '.join(words)} apart by their first token, as this"
            " contrast needs"
        )
    return ids
