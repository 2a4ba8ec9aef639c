"""A batched lmms-eval wrapper for image-text-to-text models of transformers: generation, log-likelihood, unsteered."""

import atexit
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.utils import Collator
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from lmms_steer.backbones import checkpoint
from lmms_steer.errors import UserError, unknown
from lmms_steer.intervention.phase import continuation
from lmms_steer.models.settings import (
    checked_dtype,
    cut,
    generate_settings,
    loaded,
    positive,
    read_answer_bias,
    yes_or_no,
)


class HfVlm(lmms):  # type: ignore[misc]
    """The unsteered model, and everything that steering leaves as it is.

    Args:
        pretrained: a Hub id, a folder, or `tiny-paligemma2`, the trained model that ships.
        revision: of a Hub id.
        dtype: `auto` is the checkpoint's own on an accelerator and float32 on a processor.
        device: `cuda:0`, `cpu`, …; where unsaid, the one that accelerate gives this process.
        batch_size: examples a forward call.
        attn_implementation: as in transformers (`eager`, `sdpa`, …).
        trust_remote_code: run code that comes with the checkpoint; off unless said.
        answer_bias: a YAML file of word: number, added to the logit of the word's first token in generation; a control
            for gains that come from liking other answers (`lmms_steer.search.calibration`).
        prompt_prefix: put before every question, with a space (PaliGemma's mix models expect `answer en`).
    """

    is_simple = True
    default_pretrained: ClassVar[str]

    def __init__(
        self,
        pretrained: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,  # noqa: ARG002  lmms-eval passes it to every model
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        prompt_prefix: str = "",
        answer_bias: str | None = None,
        **unknown_args: object,
    ) -> None:
        super().__init__()
        for name in unknown_args:
            raise unknown("model_arg", name, self.known_args())
        self.pretrained = str(pretrained) if pretrained is not None else self.default_pretrained
        self.prompt_prefix = f"{prompt_prefix} " if prompt_prefix else ""
        self.batch_size_per_gpu = positive("batch_size", batch_size)
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        if self._world_size > 1:
            atexit.register(_leave_process_group)
        self._device = torch.device(device) if device is not None else self.accelerator.device
        dtype = checked_dtype(dtype, self._device)
        options: dict[str, Any] = {"trust_remote_code": yes_or_no("trust_remote_code", trust_remote_code)}
        if revision is not None:
            options["revision"] = str(revision)
        source = checkpoint(self.pretrained)
        self.config = loaded(self.pretrained, AutoConfig.from_pretrained, source, **options)
        self.prepare()
        self.processor = loaded(self.pretrained, AutoProcessor.from_pretrained, source, **options)
        self.processor.tokenizer.padding_side = "left"
        if attn_implementation is not None:
            options["attn_implementation"] = attn_implementation
        model = loaded(self.pretrained, AutoModelForImageTextToText.from_pretrained, source, dtype=dtype, **options)
        self.model = model.to(self._device).eval()
        self.answer_bias = read_answer_bias(answer_bias, self.tokenizer) if answer_bias is not None else None

    def prepare(self) -> None:
        """Called when the config is known and before the weights are read, to refuse early what cannot work."""

    @classmethod
    def known_args(cls) -> tuple[str, ...]:
        """What may stand in `--model_args`."""
        return (
            *("pretrained", "revision", "dtype", "device", "batch_size", "max_batch_size"),
            *("attn_implementation", "trust_remote_code", "prompt_prefix", "answer_bias"),
        )

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
                until = settings.pop("until", None) or []
                inputs = self.model_inputs([args[0] for args in chunk], [self._images(args[2:]) for args in chunk])
                output = self.model.generate(**inputs, sequence_bias=self.answer_bias, **generate_settings(settings))
                prompts = inputs["attention_mask"].sum(1).tolist()
                for row, prompt in zip(output[:, inputs["input_ids"].shape[1] :], prompts, strict=True):
                    count = int((row != self.tokenizer.pad_token_id).sum())
                    text = cut(self.tokenizer.decode(row, skip_special_tokens=True), until)
                    results.append(GenerationResult(text, TokenCounts(int(prompt), count)))
                bar.update(len(chunk))
        ordered: list[GenerationResult] = collator.get_original(results)
        return ordered

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
                images = [self._images(args[2:]) for args in chunk]
                docs = [self.task_dict[args[4]][args[5]][args[3]] if callable(args[1]) else None for args in chunk]
                answers = [
                    str(args[1](doc) if callable(args[1]) else args[1]) for args, doc in zip(chunk, docs, strict=True)
                ]
                results += self._score([args[0] for args in chunk], images, answers)
                bar.update(len(chunk))
        ordered: list[GenerationResult] = collator.get_original(results)
        return ordered

    def _score(
        self, questions: list[str], images: list[list[Image.Image]], answers: list[str]
    ) -> list[GenerationResult]:
        inputs = self.model_inputs(questions, images, answers)
        labels: Tensor = inputs.pop("labels")
        labels[:, -1] = -100  # the processor puts an end-of-sequence token after the answer, which is no part of it
        width = int((labels != -100).sum(1).max()) + 1
        with continuation((labels != -100).sum(1) + 1):
            logits = self.model(**inputs, logits_to_keep=width + 1).logits[:, :-1]
        labels = labels[:, -width:]
        asked = labels != -100
        scores = torch.log_softmax(logits.float(), -1).gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        losses = -(scores * asked).sum(1) / asked.sum(1).clamp_min(1)
        greedy = ((logits.argmax(-1) == labels) | ~asked).all(1)
        return [GenerationResult((loss, best)) for loss, best in zip(losses.tolist(), greedy.tolist(), strict=True)]

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[str]:  # noqa: ARG002
        """Not offered: what is generated tokens and what is prompt would change from round to round."""
        raise UserError(f"{type(self).__name__} answers single questions: generate_until_multi_round is not supported")

    def model_inputs(
        self, questions: list[str], images: list[list[Image.Image]], answers: list[str] | None = None
    ) -> dict[str, Any]:
        """Questions with their images, and answers to be scored, as the model takes them: left-padded, on device."""
        questions = [self.prompt_prefix + question for question in questions]
        batch = self.format_prompts(self.processor, questions, images, answers)
        moved = batch.to(self._device)
        floating = self.model.dtype
        return {k: v.to(floating) if torch.is_floating_point(v) else v for k, v in moved.items()}

    @staticmethod
    @abstractmethod
    def format_prompts(
        processor: Any, questions: list[str], images: list[list[Image.Image]], answers: list[str] | None
    ) -> Any:
        """The family's prompt format, one of `lmms_steer.prompts`."""

    def first_token(self, word: str) -> int:
        """The id of the first token of an answer."""
        return int(self.tokenizer(word, add_special_tokens=False)["input_ids"][0])

    def _images(self, rest: tuple[Any, ...]) -> list[Image.Image]:
        doc_to_visual, doc_id, task, split = rest[:4]
        visuals = doc_to_visual(self.task_dict[task][split][doc_id]) or []
        for visual in visuals:
            if not isinstance(visual, Image.Image):
                raise UserError(f"{task} gives a {type(visual).__name__} as visual: {type(self).__name__} takes images")
        return [visual.convert("RGB") for visual in visuals]

    def _progress(self, total: int, title: str) -> "tqdm[Any]":
        # None: shown in a terminal, silent in a log file
        return tqdm(total=total, desc=title, disable=None if self.rank == 0 else True)

    def _refuse_response_cache(self) -> None:
        if getattr(self, "response_cache_in_use", False):
            raise UserError(
                "--use_cache cannot hold log-likelihoods (lmms-eval 0.7.3): run multiple-choice tasks without it"
            )


def _leave_process_group() -> None:
    # lmms-eval leaves it open, and its threads can then abort the interpreter's exit after all results are written
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
