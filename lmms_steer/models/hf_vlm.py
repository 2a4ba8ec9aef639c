"""A batched lmms-eval wrapper for image-text-to-text models of transformers: generation, log-likelihood, unsteered."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.utils import Collator
from torch import Tensor
from tqdm import tqdm
from transformers import AutoConfig, AutoProcessor

from lmms_steer.backbones import checkpoint
from lmms_steer.errors import UserError, unknown
from lmms_steer.intervention.phase import continuation
from lmms_steer.models.answer_bias import read_answer_bias
from lmms_steer.models.batches import in_batches
from lmms_steer.models.image_ids import image_ids, shown
from lmms_steer.models.loading import few_bits, load_model, refuse_encoder_decoder, set_images
from lmms_steer.models.names import IMAGE_SETTINGS, MODEL_ARGS
from lmms_steer.models.settings import (
    checked_dtype,
    cut,
    generate_settings,
    loaded,
    positive,
    yes_or_no,
)
from lmms_steer.models.visuals import visuals_of
from lmms_steer.prompts import Format, Visual, answer_ids, format_of, prompt_end


class HfVlm(lmms):  # type: ignore[misc]
    """The unsteered model, and everything that steering leaves as it is.

    Args:
        pretrained: any checkpoint that AutoModelForImageTextToText loads (a Hub id, a folder), or `tiny-paligemma2`.
        revision: of a Hub id.
        dtype: `auto` is the checkpoint's own on an accelerator and float32 on a processor.
        device: `cuda:0`, `cpu`, …; where unsaid, the one that accelerate gives this process.
        device_map: `auto` spreads the layers over all accelerators; vectors follow each layer's device.
        batch_size: examples a forward call.
        attn_implementation: as in transformers (`eager`, `sdpa`, …).
        load_in_4bit, load_in_8bit: with bitsandbytes, where it is installed.
        trust_remote_code: run code that comes with the checkpoint; off unless said.
        answer_bias: a YAML file of word: number, added to the logit of the word's first token where an answer begins,
            written or scored; a control for gains that come from liking other answers
            (`lmms_steer.search.calibration`).
        size, do_image_splitting, min_pixels, max_pixels: of the image processor, where it has them.
        prompt_prefix: put before every question, with a space (PaliGemma's mix models expect `answer en`).
    """

    is_simple = True
    default_pretrained: ClassVar[str | None] = None

    def __init__(
        self,
        pretrained: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        device_map: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,  # noqa: ARG002  lmms-eval passes it to every model
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        load_in_4bit: bool = False,
        load_in_8bit: bool = False,
        prompt_prefix: str = "",
        answer_bias: str | None = None,
        **more: Any,
    ) -> None:
        super().__init__()
        image_settings = {name: more.pop(name) for name in IMAGE_SETTINGS if name in more}
        for name in more:
            raise unknown("model_arg", name, self.known_args())
        if pretrained is None and self.default_pretrained is None:
            raise UserError("no model: add pretrained=NAME to --model_args, a Hub id or a folder")
        self.pretrained = str(pretrained or self.default_pretrained)
        self.prompt_prefix = f"{prompt_prefix} " if prompt_prefix else ""
        self.batch_size_per_gpu = positive("batch_size", batch_size)
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self._device = torch.device(device) if device is not None else self.accelerator.device
        dtype = checked_dtype(dtype, self._device)
        options: dict[str, Any] = {"trust_remote_code": yes_or_no("trust_remote_code", trust_remote_code)}
        if revision is not None:
            options["revision"] = str(revision)
        source = checkpoint(self.pretrained)
        self.config = loaded(self.pretrained, AutoConfig.from_pretrained, source, **options)
        refuse_encoder_decoder(self.pretrained, self.config)
        self.prepare()
        self.processor = loaded(self.pretrained, AutoProcessor.from_pretrained, source, **options)
        if not hasattr(self.processor, "image_processor"):
            raise UserError(f"{self.pretrained} takes no images ({type(self.processor).__name__}): it is a text model")
        self.processor.tokenizer.padding_side = "left"
        set_images(self.processor, image_settings)
        self.format = self.prompt_format()
        self.prompt_end = prompt_end(self.processor, self.format)
        if attn_implementation is not None:
            options["attn_implementation"] = attn_implementation
        bits = few_bits(yes_or_no("load_in_4bit", load_in_4bit), yes_or_no("load_in_8bit", load_in_8bit))
        self.model = load_model(self.pretrained, source, self._device, device_map, dtype=dtype, **bits, **options)
        self._device = self.model.device
        self.answer_bias = read_answer_bias(answer_bias, self.first_token) if answer_bias is not None else None

    def prepare(self) -> None:
        """Called when the config is known and before the weights are read, to refuse early what cannot work."""

    def prompt_format(self) -> Format:
        """One of `lmms_steer.prompts`: what the processor calls for."""
        return format_of(self.processor)

    @classmethod
    def known_args(cls) -> tuple[str, ...]:
        """What may stand in `--model_args`."""
        return MODEL_ARGS

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def batch_size(self) -> int:
        return self.batch_size_per_gpu

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

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
                results += in_batches(asked, _shape_of, lambda part: self._generate(part, settings))  # noqa: B023
                bar.update(len(chunk))
        ordered: list[GenerationResult] = collator.get_original(results)
        return ordered

    def _generate(self, asked: list[tuple[str, list[Visual]]], settings: dict[str, Any]) -> list[GenerationResult]:
        kwargs = generate_settings(settings)
        inputs = self.model_inputs([question for question, _ in asked], [visuals for _, visuals in asked])
        positions = inputs["input_ids"].shape[1]
        self._refuse_too_long(positions + kwargs["max_new_tokens"], asked)
        biased = self.answer_bias.after(positions) if self.answer_bias else None
        output = self.model.generate(**inputs, logits_processor=biased, **kwargs)
        prompts = inputs["attention_mask"].sum(1).tolist()
        results = []
        for row, prompt in zip(output[:, positions:], prompts, strict=True):
            count = int((row != self.tokenizer.pad_token_id).sum())
            text = cut(self.tokenizer.decode(row, skip_special_tokens=True), settings.get("until") or [])
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
                results += in_batches(asked, _shape_of, self._score)
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
        self._refuse_too_long(positions, [(question, own) for question, own, _ in asked])
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

    def _refuse_too_long(self, positions: int, asked: Sequence[tuple[str, list[Visual]]]) -> None:
        limit = getattr(self.config.get_text_config(decoder=True), "max_position_embeddings", None)
        if limit is not None and positions > limit:
            longest = max((question for question, _ in asked), key=len)
            raise UserError(
                f"{longest[:60]!r} … with its images and answer is {positions} tokens long, and {self.pretrained} takes"
                f" {limit}: fewer or smaller images, or a smaller max_new_tokens"
            )

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:  # noqa: ARG002
        """Not offered: what is generated tokens and what is prompt would change from round to round."""
        raise UserError(f"{type(self).__name__} answers single questions: generate_until_multi_round is not supported")

    def model_inputs(
        self, questions: Sequence[str], visuals: Sequence[Sequence[Visual]], answers: Sequence[str] | None = None
    ) -> dict[str, Any]:
        """Questions with their visuals, and answers to be scored, as the model takes them: left-padded, on device."""
        questions = [self.prompt_prefix + question for question in questions]
        moved = self.format(self.processor, questions, visuals, answers).to(self._device)
        floating = self.model.dtype
        return {k: v.to(floating) if torch.is_floating_point(v) else v for k, v in moved.items()}

    def first_token(self, word: str) -> int:
        """The id of the token that an answer begins with, as the model writes it behind a prompt."""
        return answer_ids(self.tokenizer, self.prompt_end, word)[0]

    def _visuals(self, rest: tuple[Any, ...]) -> list[Visual]:
        doc_to_visual, doc_id, task, split = rest[:4]
        found = visuals_of(doc_to_visual(self.task_dict[task][split][doc_id]), f"{task}, document {doc_id}")
        shown[task, doc_id] = image_ids(found)
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
