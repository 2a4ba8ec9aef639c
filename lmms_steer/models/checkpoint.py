"""A checkpoint as lmms-eval's command line names it: loaded, and what makes questions into its inputs."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from lmms_eval.api.model import lmms
from transformers import AutoConfig, AutoProcessor

from lmms_steer.errors import UserError, unknown_name
from lmms_steer.models import IMAGE_SETTINGS, MODEL_ARGS
from lmms_steer.models.answer_bias import read_answer_bias
from lmms_steer.models.loading import (
    check_bool,
    check_positive,
    configure_images,
    load_model,
    load_or_refuse,
    quantization_options,
    refuse_encoder_decoder,
    resolve_dtype,
    usable_device,
)
from lmms_steer.models.prompts import PromptFormat, answer_token_ids, prompt_end, prompt_format_for
from lmms_steer.models.visuals import Visual
from lmms_steer.vectors.backbones import checkpoint


class HfCheckpoint(lmms):  # type: ignore[misc]
    """A checkpoint as `--model_args` names it, with its processor, on its device.

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
            raise unknown_name("model_arg", name, self.known_args())
        if pretrained is None and self.default_pretrained is None:
            raise UserError("no model: add pretrained=NAME to --model_args, a Hub id or a folder")
        self.pretrained = str(pretrained or self.default_pretrained)
        self.prompt_prefix = f"{prompt_prefix} " if prompt_prefix else ""
        self.batch_size_per_gpu = check_positive("batch_size", batch_size)
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self._device = usable_device(device) if device is not None else self.accelerator.device
        dtype = resolve_dtype(dtype, self._device)
        options: dict[str, Any] = {"trust_remote_code": check_bool("trust_remote_code", trust_remote_code)}
        if revision is not None:
            options["revision"] = str(revision)
        source = checkpoint(self.pretrained)
        self.config = load_or_refuse(self.pretrained, AutoConfig.from_pretrained, source, **options)
        refuse_encoder_decoder(self.pretrained, self.config)
        self.prepare()
        self.processor = load_or_refuse(self.pretrained, AutoProcessor.from_pretrained, source, **options)
        if not hasattr(self.processor, "image_processor"):
            raise UserError(f"{self.pretrained} takes no images ({type(self.processor).__name__}): it is a text model")
        self.processor.tokenizer.padding_side = "left"
        configure_images(self.processor, image_settings)
        self.format = self.prompt_format()
        self.prompt_end = prompt_end(self.processor, self.format)
        self.answer_bias = read_answer_bias(answer_bias, self.first_token) if answer_bias is not None else None
        if attn_implementation is not None:
            options["attn_implementation"] = attn_implementation
        bits = quantization_options(check_bool("load_in_4bit", load_in_4bit), check_bool("load_in_8bit", load_in_8bit))
        self.model = load_model(self.pretrained, source, self._device, device_map, dtype=dtype, **bits, **options)
        self._device = self.model.device

    def prepare(self) -> None:
        """Called when the config is known and before the weights are read, to refuse early what cannot work."""

    def prompt_format(self) -> PromptFormat:
        """One of `lmms_steer.models.prompts`: what the processor calls for."""
        return prompt_format_for(self.processor)

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
        return answer_token_ids(self.tokenizer, self.prompt_end, word)[0]

    def refuse_too_long(self, positions: int, asked: Sequence[tuple[str, list[Visual]]]) -> None:
        """
        Raises:
            UserError: for questions whose prompts and answers take more positions than the model has.
        """
        limit = getattr(self.config.get_text_config(decoder=True), "max_position_embeddings", None)
        if limit is not None and positions > limit:
            longest = max((question for question, _ in asked), key=len)
            raise UserError(
                f"{longest[:60]!r} … with its images and answer is {positions} tokens long, and {self.pretrained} takes"
                f" {limit}: fewer or smaller images, or a smaller max_new_tokens"
            )
