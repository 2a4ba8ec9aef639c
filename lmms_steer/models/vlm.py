"""A batched lmms-eval wrapper for image-text-to-text models of transformers: generation, log-likelihood, unsteered."""

from collections.abc import Sequence
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.utils import Collator
from torch import Tensor
from tqdm import tqdm

from lmms_steer.errors import UserError
from lmms_steer.models.batches import run_grouped
from lmms_steer.models.checkpoint import HfCheckpoint
from lmms_steer.models.loading import cut_at, generation_settings
from lmms_steer.models.visuals import Visual, image_ids, prepare_visuals, shown_images
from lmms_steer.steering.positions import continuation


class HfVlm(HfCheckpoint):
    """The unsteered model's answers, and everything that steering leaves as it is; arguments as of `HfCheckpoint`."""

    @torch.inference_mode()
    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """The generated text of each request, cut at the first of its `until` strings, with token counts."""
        collator = Collator([r.args for r in requests], lambda args: (-len(args[0]), args[0]), grouping=True)
        results: list[GenerationResult] = []
        with self._progress(len(requests), "generate_until") as bar:
            for chunk in collator.get_batched(n=self.batch_size):
                settings = dict(chunk[0][1])
                visuals = [self._visuals(args[2:]) for args in chunk]
                asked = list(zip([args[0] for args in chunk], visuals, strict=True))
                results += run_grouped(asked, _shape_of, lambda part: self._generate(part, settings))  # noqa: B023
                bar.update(len(chunk))
        ordered: list[GenerationResult] = collator.get_original(results)
        return ordered

    def _generate(self, asked: list[tuple[str, list[Visual]]], settings: dict[str, Any]) -> list[GenerationResult]:
        kwargs = generation_settings(settings)
        inputs = self.model_inputs([question for question, _ in asked], [visuals for _, visuals in asked])
        positions = inputs["input_ids"].shape[1]
        self.refuse_too_long(positions + kwargs["max_new_tokens"], asked)
        biased = self.answer_bias.after(positions) if self.answer_bias else None
        output = self.model.generate(**inputs, logits_processor=biased, **kwargs)
        prompts = inputs["attention_mask"].sum(1).tolist()
        results = []
        for row, prompt in zip(output[:, positions:], prompts, strict=True):
            count = int((row != self.tokenizer.pad_token_id).sum())
            text = cut_at(self.tokenizer.decode(row, skip_special_tokens=True), settings.get("until") or [])
            results.append(GenerationResult(text, TokenCounts(int(prompt), count)))
        return results

    @torch.inference_mode()
    def loglikelihood(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """(mean negative log-likelihood, is it the greedy answer) of each request's continuation.

        lmms-eval's `multiple_choice` takes the smallest, so it must be a loss. It also makes a bare tuple a string:
        a `GenerationResult` is handed on untouched.
        """
        self._refuse_response_cache()
        collator = Collator([r.args for r in requests], lambda args: (-len(args[0]), args[0]))
        results: list[GenerationResult] = []
        with self._progress(len(requests), "loglikelihood") as bar:
            for chunk in collator.get_batched(n=self.batch_size):
                asked = [(args[0], self._visuals(args[2:]), self._answer(args)) for args in chunk]
                results += run_grouped(asked, _shape_of, self._score)
                bar.update(len(chunk))
        ordered: list[GenerationResult] = collator.get_original(results)
        return ordered

    def _answer(self, args: tuple[Any, ...]) -> str:
        doc_id, task, split = args[3:6]
        return str(args[1](self.task_dict[task][split][doc_id]) if callable(args[1]) else args[1])

    def _score(self, asked: list[tuple[str, list[Visual], str]]) -> list[GenerationResult]:
        answers = [answer for _, _, answer in asked]
        inputs = self.model_inputs([question for question, _, _ in asked], [own for _, own, _ in asked], answers)
        labels: Tensor = inputs.pop("labels")
        positions = labels.shape[1]
        self.refuse_too_long(positions, [(question, own) for question, own, _ in asked])
        lengths = positions - (labels != -100).int().argmax(1)  # the answer, and what a format puts after it
        width = int(lengths.max())
        with continuation(lengths):
            logits = self.model(**inputs, logits_to_keep=width + 1).logits[:, :-1]
        labels = labels[:, -width:].to(logits.device)
        counted = labels != -100
        if self.answer_bias:
            first = torch.arange(len(labels), device=labels.device), counted.int().argmax(1)
            logits = logits.float().index_put(first, self.answer_bias.on(logits[first].float()))
        scores = torch.log_softmax(logits.float(), -1).gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        losses = -(scores * counted).sum(1) / counted.sum(1).clamp_min(1)
        greedy = ((logits.argmax(-1) == labels) | ~counted).all(1)
        return [GenerationResult((loss, best)) for loss, best in zip(losses.tolist(), greedy.tolist(), strict=True)]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:  # noqa: ARG002
        """Not offered: what is generated tokens and what is prompt would change from round to round."""
        raise UserError(f"{type(self).__name__} answers single questions: generate_until_multi_round is not supported")

    def _visuals(self, rest: tuple[Any, ...]) -> list[Visual]:
        doc_to_visual, doc_id, task, split = rest[:4]
        found = prepare_visuals(doc_to_visual(self.task_dict[task][split][doc_id]), f"{task}, document {doc_id}")
        shown_images[task, doc_id] = image_ids(found)
        return found

    def _progress(self, total: int, title: str) -> "tqdm[Any]":
        # None: shown in a terminal, silent in a log file
        return tqdm(total=total, desc=title, disable=None if self.rank == 0 else True)

    def _refuse_response_cache(self) -> None:
        if getattr(self, "response_cache_in_use", False):
            raise UserError(
                "--use_cache cannot hold log-likelihoods (lmms-eval 0.7.3): run multiple-choice tasks without it"
            )


def _shape_of(asked: tuple[Any, ...]) -> tuple[str, ...]:
    """What must be the same for all questions of a call: processors take no batch whose images differ in number."""
    return tuple(type(visual).__name__ for visual in asked[1])
