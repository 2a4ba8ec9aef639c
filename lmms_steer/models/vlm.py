"""A batched lmms-eval wrapper for unsteered image-text-to-text models: generation and log-likelihoods."""

from collections.abc import Callable, Collection, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessorList

from lmms_steer._util.progress import progress_bar
from lmms_steer.errors import UserError
from lmms_steer.models.batch_order import batches_by_media, media_keys
from lmms_steer.models.batches import run_grouped
from lmms_steer.models.checkpoint import HfCheckpoint
from lmms_steer.models.contrasted import RULED_OUT
from lmms_steer.models.divergence import DivergenceMeter
from lmms_steer.models.encoded_media import EncodedMedia
from lmms_steer.models.generation import cut_at, generation_settings, stop_strings
from lmms_steer.models.prompt_formats import without_placeholders
from lmms_steer.models.visuals import Visual, image_ids, naming_decoders, prepare_visuals, shown_images
from lmms_steer.steering.anatomy import kept_logits
from lmms_steer.steering.calls import continuation
from lmms_steer.steering.decoder_inputs import decoder_ids, decoder_mask

COUNTS_PADDING = ("kosmos-2", "kosmos-2.5")
"""`model_type` of models that count padding as positions when they generate with a cache (transformers 5.23, 5.24)."""


class HfVlm(HfCheckpoint):
    """Answers of the unsteered model; arguments as of `HfCheckpoint`. Steering is added by a subclass.

    Attributes:
        encodes_once: whether what the encoders returned for a batch is used again for a batch with the same media.
    """

    encodes_once: bool = True

    def check_kinds(self, kinds: Collection[str]) -> None:
        """Check before the first question that a run's tasks can all be done.

        Args:
            kinds: their output types.

        Raises:
            UserError: as the method for one of these kinds would, once the tasks before it are done.
        """
        if "generate_until_multi_round" in kinds:
            self.generate_until_multi_round(())
        if not {"loglikelihood", "multiple_choice"}.isdisjoint(kinds):
            self._refuse_response_cache()

    @torch.inference_mode()
    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """The generated text of each request, cut at the first of its `until` strings, with token counts.

        Raises:
            UserError: if answers are to be measured and lmms-eval's response cache is on, which gives only the others.
        """
        if self.divergence is not None and getattr(self, "response_cache_in_use", False):
            raise UserError("divergence= measures answers that the model gives: leave out --use_cache")

        def answer(chunk: Sequence[tuple[Any, ...]], media: EncodedMedia) -> list[GenerationResult]:
            settings = dict(chunk[0][1])
            questions = [(args[0], self._visuals(args[2:])) for args in chunk]
            return run_grouped(
                questions, self._generated_together, lambda part: media.run(self._generate, part, settings)
            )

        results = self._run(requests, "generate_until", answer, lambda args: repr(args[1]))
        if self.divergence is not None and self.rank == 0 and not self.is_plain:
            self._measure(self.divergence, requests, results)
        return results

    def _generate(
        self, batch: Sequence[tuple[str, Sequence[Visual]]], settings: dict[str, Any]
    ) -> list[GenerationResult]:
        kwargs, until = generation_settings(settings), stop_strings(settings)
        questions = [question for question, _ in batch]
        contrast = self.contrasted
        inputs = (contrast.inputs if contrast else self.model_inputs)(questions, [visuals for _, visuals in batch])
        positions = decoder_ids(inputs).shape[1]
        self.check_length(positions + kwargs["max_new_tokens"], questions)
        processors, criteria = LogitsProcessorList(), None
        if contrast:
            kwargs = contrast.decoding(kwargs)
            processors, criteria = contrast.generation_options(len(batch), positions)
        if self.answer_bias:
            processors += self.answer_bias.after(positions)
        doubled = len(decoder_ids(inputs)) > len(batch)
        steering = self.steering_questions(questions, [visuals for _, visuals in batch], doubled)
        with steering, contrast.reading() if contrast else nullcontext():
            output = self.model.generate(**inputs, logits_processor=processors, stopping_criteria=criteria, **kwargs)
        # of an encoder-decoder, in the encoder
        prompt_lengths = inputs.get("attention_mask", torch.ones_like(decoder_ids(inputs))).sum(1).tolist()
        results = []
        for row, prompt_length in zip(output[: len(batch), positions:], prompt_lengths, strict=False):
            generated = int((row != self.tokenizer.pad_token_id).sum())
            text = cut_at(self.tokenizer.decode(row, skip_special_tokens=True), until)
            results.append(GenerationResult(text, TokenCounts(int(prompt_length), generated)))
        return results

    @torch.inference_mode()
    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """The mean negative log-likelihood of each request's continuation, and whether it is the greedy answer.

        It must be a loss, because lmms-eval's `multiple_choice` takes the smallest. Each pair is wrapped in a
        `GenerationResult`, because lmms-eval 0.7.3 converts a bare tuple to a string.

        Raises:
            UserError: if lmms-eval's response cache is on, which cannot hold log-likelihoods.
        """
        self._refuse_response_cache()

        def score(chunk: Sequence[tuple[Any, ...]], media: EncodedMedia) -> list[GenerationResult]:
            batch = [(args[0], self._visuals(args[2:]), self._answer(args)) for args in chunk]
            return run_grouped(batch, _visual_types, lambda part: media.run(self._score, part))

        return self._run(requests, "loglikelihood", score, lambda args: None)  # noqa: ARG005

    def _run(
        self,
        requests: Sequence[Instance],
        title: str,
        run: Callable[[Sequence[tuple[Any, ...]], EncodedMedia], list[GenerationResult]],
        settings_of: Callable[[tuple[Any, ...]], Hashable],
    ) -> list[GenerationResult]:
        """Run requests in batches, those with equal settings together; the results are in the requests' order."""
        arguments = [request.args for request in requests]
        keys = media_keys(self.task_dict, [args[2:6] for args in arguments])
        groups: dict[Hashable, list[int]] = {}
        for place, args in enumerate(arguments):
            groups.setdefault(settings_of(args), []).append(place)
        media = EncodedMedia(self.model if self.encodes_once else None)
        results: dict[int, GenerationResult] = {}
        with self._progress(len(requests), title) as bar:
            for group in groups.values():
                order = [(-len(arguments[place][0]), arguments[place][0]) for place in group]
                for batch in batches_by_media([keys[place] for place in group], order, self.batch_size):
                    places = [group[number] for number in batch]
                    results.update(zip(places, run([arguments[place] for place in places], media), strict=True))
                    bar.update(len(places))
        return [results[place] for place in range(len(requests))]

    def steering_questions(
        self,
        questions: Sequence[str],  # noqa: ARG002
        visuals: Sequence[Sequence[Visual]],  # noqa: ARG002
        doubled: bool,  # noqa: ARG002
    ) -> AbstractContextManager[None]:
        """The block in which a batch runs, for subclasses that steer each question by itself.

        Args:
            questions: the batch's questions.
            visuals: the visuals of each.
            doubled: whether as many rows of a contrast follow those of the questions.
        """
        return nullcontext()

    @property
    def is_plain(self) -> bool:
        """Whether answers are those of the model as it is, without a contrast or biases; subclasses may change more."""
        return self.contrasted is None and self.answer_bias is None

    def unsteered(self) -> AbstractContextManager[None]:
        """The block in which the model runs as it is, for subclasses that steer it."""
        return nullcontext()

    def _answer(self, args: tuple[Any, ...]) -> str:
        doc_id, task, split = args[3:6]
        return str(args[1](self.task_dict[task][split][doc_id]) if callable(args[1]) else args[1])

    def _measure(
        self, meter: DivergenceMeter, requests: Sequence[Instance], results: Sequence[GenerationResult]
    ) -> None:
        of_tasks: dict[str, list[tuple[tuple[Any, ...], str]]] = {}
        for request, result in zip(requests, results, strict=True):
            asked = of_tasks.setdefault(request.args[4], [])
            if len(asked) < meter.limit:
                asked.append((request.args, result.text))
        for task, asked in of_tasks.items():
            meter.measure(task, [(args[0], self._visuals(args[2:]), text) for args, text in asked], _visual_types)

    def _score(self, batch: Sequence[tuple[str, Sequence[Visual], str]]) -> list[GenerationResult]:
        logits, labels = self.answer_logits(batch)
        in_answer = labels != -100
        scores = torch.log_softmax(logits.float(), -1).gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        losses = -(scores * in_answer).sum(1) / in_answer.sum(1).clamp_min(1)
        greedy = ((logits.argmax(-1) == labels) | ~in_answer).all(1)
        return [GenerationResult((loss, best)) for loss, best in zip(losses.tolist(), greedy.tolist(), strict=True)]

    def answer_logits(
        self, batch: Sequence[tuple[str, Sequence[Visual], str]], plain: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The logits from which each token of some answers is chosen.

        Args:
            batch: question, visuals and answer; the visuals have the same types.
            plain: without the contrast and the answer bias.

        Returns:
            logits [questions, places, vocabulary], and the tokens, int [questions, places]: -100 before an answer.

        Raises:
            UserError: for an answer without a token.
        """
        questions = [question for question, _, _ in batch]
        contrast = None if plain else self.contrasted
        inputs = (contrast.inputs if contrast else self.model_inputs)(
            questions, [visuals for _, visuals, _ in batch], [answer for _, _, answer in batch]
        )
        labels: Tensor = inputs.pop("labels")
        silent = (labels == -100).all(1)
        if silent.any():
            answer = batch[int(silent.int().argmax()) % len(batch)][2]
            raise UserError(f"{answer!r} is an answer without a token: it has no probability")
        positions = labels.shape[1]
        self.check_length(positions, questions)
        # the answer, and what the format puts after it
        lengths = positions - (labels != -100).int().argmax(1)
        width = int(lengths.max())
        mask = decoder_mask(inputs)
        if isinstance(mask, Tensor):
            # padding behind the answer
            lengths -= (mask.flip(1).cumsum(1) == 0).sum(1).to(lengths.device)
        steering = self.steering_questions(
            questions, [visuals for _, visuals, _ in batch], len(decoder_ids(inputs)) > len(batch)
        )
        with steering, continuation(lengths), contrast.reading() if contrast else nullcontext():
            logits = self.model(**inputs, **kept_logits(self.model, width + 1)).logits[:, -width - 1 : -1]
            labels = labels[: len(batch), -width:].to(logits.device)
            in_answer = labels != -100
            if contrast:
                logits = contrast.scores(logits, (in_answer.cumsum(1) - 1).clamp_min(0), last=-1, ruled_out=RULED_OUT)
        if self.answer_bias and not plain:
            places = self.answer_bias.places(labels, in_answer)
            logits = logits.float().index_put((places,), self.answer_bias.on(logits[places].float()))
        return logits, labels

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:  # noqa: ARG002
        """Not supported: tokens that are generated in one round would be part of the prompt in the next.

        Raises:
            UserError: always.
        """
        raise UserError(f"{type(self).__name__} answers single questions: generate_until_multi_round is not supported")

    def _visuals(self, rest: tuple[Any, ...]) -> list[Visual]:
        doc_to_visual, doc_id, task, split = rest[:4]
        where = f"{task}, document {doc_id}"
        with naming_decoders(where):
            visuals = prepare_visuals(doc_to_visual(self.task_dict[task][split][doc_id]), where)
        shown_images[task, doc_id] = image_ids(visuals)
        return visuals

    def _generated_together(self, question: tuple[Any, ...]) -> tuple[Any, ...]:
        """What is equal for questions that may be in one batch."""
        types = _visual_types(question)
        if self.config.model_type not in COUNTS_PADDING:
            return types
        text = without_placeholders(self.processor, question[0]).strip()
        return *types, len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _progress(self, total: int, title: str) -> "tqdm[Any]":
        return progress_bar(total=total, desc=title, shown=self.rank == 0)

    def _refuse_response_cache(self) -> None:
        if getattr(self, "response_cache_in_use", False):
            raise UserError(
                "--use_cache cannot hold log-likelihoods (lmms-eval 0.7.3): run multiple-choice tasks without it"
            )


def _visual_types(question: tuple[Any, ...]) -> tuple[str, ...]:
    """The types of a question's visuals: equal in a batch, because processors need the same number of images."""
    return tuple(type(visual).__name__ for visual in question[1])
