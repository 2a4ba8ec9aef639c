"""Load a checkpoint from `--model_args`, and make model inputs from questions."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from lmms_eval.api.model import lmms
from transformers import AutoConfig, AutoProcessor

from lmms_steer._util.code import is_built_in
from lmms_steer.errors import UserError, unknown_name
from lmms_steer.models import BLANK, CONTRAST_ARGS, IMAGE_SETTINGS, MODEL_ARGS, VIDEO_SETTINGS
from lmms_steer.models.answer_bias import read_answer_bias
from lmms_steer.models.contrasted import ContrastedDecoding
from lmms_steer.models.contrasts import read_contrast
from lmms_steer.models.decoder_batches import with_decoder_part
from lmms_steer.models.divergence import DivergenceMeter
from lmms_steer.models.loading import (
    auto_class_of,
    check_bool,
    check_positive,
    checkpoint_name,
    configure_images,
    configure_videos,
    load_model,
    load_or_refuse,
    no_model,
    quantization_options,
    resolve_dtype,
    usable_device,
)
from lmms_steer.models.media_inputs import audio_rate
from lmms_steer.models.prompts import (
    PromptFormat,
    PromptFunction,
    answer_token_ids,
    bracketed_token_id,
    checked_batch,
    find_prompt_format,
    prompt_format_for,
)
from lmms_steer.models.visuals import Visual, blank_visuals
from lmms_steer.steering.support import check_config, has_encoder
from lmms_steer.vectors.backbones import checkpoint

_TIMES = "second_per_grid"
"""Part of the names of inputs that are times. Positions are computed from them, which bfloat16 would round."""


class HfCheckpoint(lmms):  # type: ignore[misc]
    """A checkpoint with its processor, on its device. The arguments are those of `--model_args`.

    Args:
        pretrained: any checkpoint that AutoModelForImageTextToText or AutoModelForMultimodalLM loads (a Hub id or a
            folder), or `tiny-paligemma2`. Of Qwen-Omni, the thinker is loaded.
        revision: the revision of a Hub id.
        dtype: `auto`, `float32`, `bfloat16` or `float16`; `auto` is the checkpoint's own on an accelerator and float32
            on a CPU.
        device: `cuda:0`, `cpu`, …; by default the one that accelerate assigns to this process.
        device_map: `auto` spreads the layers over all accelerators; vectors are moved to each layer's device.
        batch_size: the number of examples in a forward call.
        max_batch_size: ignored; lmms-eval passes it to every model.
        attn_implementation: as in transformers (`eager`, `sdpa`, …).
        trust_remote_code: run code that comes with the checkpoint; False by default.
        load_in_4bit, load_in_8bit: quantize with bitsandbytes, if it is installed.
        prompt_prefix: text before every question, followed by a space (PaliGemma's mix models expect `answer en`).
        prompt_format: the name of a prompt format (`lmms_steer.models.prompts`); in Python, also a function or a
            `PromptFormat`. By default the model's own, or else the one that matches the processor.
        answer_bias: a YAML file of word: number. The number is added to the logit of the word's first token, from the
            beginning of an answer until one of the words is generated or scored. It is a control for gains that come
            from a preference for other answers (`lmms_steer.search.calibration`).
        image: `blank` replaces every image by a grey one of its size, and every sound by silence: a control for what is
            answered without sight or hearing.
        contrast: the name of a decoding contrast (`lmms_steer.models.contrasts`), with its settings in `more`.
        divergence: on so many questions of each task, measure how far the generated answers are from the plain model's
            (`lmms_steer.models.divergence`); it costs two forward calls for each.
        more: the settings of the contrast, `contrast_alpha`, …; and `size`, `do_image_splitting`, `min_pixels` and
            `max_pixels` of the image processor, if it has them; `fps` or `num_frames`, by which the frames of video
            files are chosen.

    Attributes:
        model: the loaded model, in eval mode.
        config: its config.
        revision: of a Hub id, as the user named it; None for `main`.
        processor: its processor, which pads on the left; that of an encoder-decoder, on the right.
        prompt_format: the format of its prompts.
        answer_bias: the biases that were read, or None.
        image: `blank`, or None.
        contrast: the contrast's settings, or None.
        contrasted: runs the contrast; None where there is none, or it is the plain model.
        divergence: measures the generated answers, or None.
    """

    is_simple = True
    default_pretrained: ClassVar[str | None] = None
    """The checkpoint if `pretrained` is not given; None if it must be."""
    default_prompt_format: ClassVar[str | None] = None
    """The prompt format if `prompt_format` is not given; None for the one that matches the processor."""

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
        prompt_format: str | PromptFormat | PromptFunction | None = None,
        answer_bias: str | None = None,
        image: str | None = None,
        contrast: str | None = None,
        divergence: int | None = None,
        **more: Any,
    ) -> None:
        super().__init__()
        of_contrast = {name: more.pop(name) for name in CONTRAST_ARGS if name in more}
        of_videos = {name: more.pop(name) for name in VIDEO_SETTINGS if name in more}
        image_settings = more
        for name in image_settings:
            if name not in IMAGE_SETTINGS:
                raise unknown_name("key", name, self.known_args(), "in --model_args")
        if image not in (None, BLANK):
            raise UserError(f"image={image}: expected {BLANK}, which replaces every image by a grey one")
        self.image = image
        self.contrast = read_contrast({"contrast": contrast, **of_contrast})
        if pretrained is None and self.default_pretrained is None:
            raise no_model()
        self.pretrained = checkpoint_name(pretrained or self.default_pretrained)
        self.divergence: DivergenceMeter | None = None
        if divergence is not None:
            self.divergence = DivergenceMeter(self, check_positive("divergence", divergence))
        self.prompt_prefix = f"{prompt_prefix} " if prompt_prefix else ""
        self.batch_size_per_gpu = check_positive("batch_size", batch_size)
        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self._device = usable_device(device) if device is not None else self.accelerator.device
        dtype = resolve_dtype(dtype, self._device)
        options: dict[str, Any] = {"trust_remote_code": check_bool("trust_remote_code", trust_remote_code)}
        options |= {"revision": str(revision)} if revision is not None else {}
        self.revision = options.get("revision")
        source = checkpoint(self.pretrained)
        self.config = load_or_refuse(self.pretrained, AutoConfig.from_pretrained, source, **options)
        self.config = getattr(self.config, "thinker_config", None) or self.config
        self._check_config()
        self.prepare()
        self.processor = load_or_refuse(self.pretrained, AutoProcessor.from_pretrained, source, **options)
        if not hasattr(self.processor, "image_processor") and audio_rate(self.processor) is None:
            raise UserError(
                f"{self.pretrained} takes neither images nor audio ({type(self.processor).__name__}): evaluate a text"
                " model with lmms-steer lm-eval run --model steered_hf, and search with --harness lm-eval"
            )
        # the position of an encoder's token does not depend on the other rows
        self.processor.tokenizer.padding_side = "right" if has_encoder(self.config) else "left"
        configure_images(self.processor, image_settings)
        configure_videos(self.processor, of_videos)
        prompt_format = prompt_format if prompt_format is not None else self.default_prompt_format
        if prompt_format is None:
            self.prompt_format = prompt_format_for(self.processor)
        else:
            self.prompt_format = find_prompt_format(prompt_format)
        self.prompt_end = "" if has_encoder(self.config) else self.prompt_format.prompt_end(self.processor)
        self.answer_bias = (
            read_answer_bias(answer_bias, self.first_token, self.bracketed_token) if answer_bias is not None else None
        )
        chosen = self.contrast
        self.contrasted = ContrastedDecoding(chosen, self) if chosen and not chosen.is_plain else None
        if attn_implementation is not None:
            options["attn_implementation"] = attn_implementation
        bits = quantization_options(check_bool("load_in_4bit", load_in_4bit), check_bool("load_in_8bit", load_in_8bit))
        self.model = load_model(
            self.pretrained, source, self._device, device_map, auto_class_of(self.config),
            config=self.config, dtype=dtype, **bits, **options,
        )  # fmt: skip
        self._device = self.model.device

    def prepare(self) -> None:
        """A hook for subclasses: runs once the config is read and before the weights are, to refuse mistakes early."""

    def _check_config(self) -> None:
        check_config(self.config, self.pretrained)
        if has_encoder(self.config) and self.contrast is not None:
            name = self.contrast.contrast.name
            raise UserError(f"contrast={name}: {self.pretrained} is an encoder-decoder, which has no contrasts here")

    @classmethod
    def known_args(cls) -> tuple[str, ...]:
        """The arguments that `--model_args` may contain."""
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
        """Model inputs for questions with their visuals, and for answers to be scored: padded, on the device.

        An encoder-decoder has its questions in the encoder, and its answers in the decoder.

        Args:
            questions: the questions, without the prefix.
            visuals: the visuals of each question.
            answers: answers to be scored; the inputs then contain their `labels`.

        Raises:
            UserError: for visuals that are not in a list for each question; for a prompt format of the user's own that
                returns what the model cannot run on.
        """
        if flat := [one for one in visuals if not isinstance(one, Sequence) or isinstance(one, str)]:
            raise UserError(
                f"model_inputs takes a list of visuals for each question, as in [[image]], got {type(flat[0]).__name__}"
            )
        questions = [self.prompt_prefix + question for question in questions]
        if self.image == BLANK:
            visuals = [blank_visuals(own) for own in visuals]
        in_decoder = has_encoder(self.config)
        scored = None if in_decoder else answers
        batch = self.prompt_format(self.processor, questions, visuals, scored)
        if not is_built_in(self.prompt_format.function):
            name = self.prompt_format.name
            batch = checked_batch(batch, name, len(questions), scored is not None, padded_left=not in_decoder)
        batch = batch.to(self._device)
        if in_decoder:
            tokenizer, begin = self.tokenizer, self.prompt_end
            ids = None if answers is None else [answer_token_ids(tokenizer, begin, answer) for answer in answers]
            batch = with_decoder_part(self.model, batch, ids, tokenizer.pad_token_id or 0)
        dtype = self.model.dtype
        return {k: v.to(dtype) if torch.is_floating_point(v) and _TIMES not in k else v for k, v in batch.items()}

    def first_token(self, word: str) -> int:
        """The id of the first token of an answer, as it follows a prompt."""
        return answer_token_ids(self.tokenizer, self.prompt_end, word)[0]

    def bracketed_token(self, word: str) -> int:
        """The id of the token in which an answer in brackets begins to be this word, as it follows a prompt."""
        return bracketed_token_id(self.tokenizer, self.prompt_end, word)

    def check_length(self, positions: int, questions: Sequence[str]) -> None:
        """Check that a batch fits into the model's context.

        Args:
            positions: the length of the prompts and answers.
            questions: the batch's questions, for the message.

        Raises:
            UserError: if the model has fewer positions.
        """
        limit = getattr(self.config.get_text_config(decoder=True), "max_position_embeddings", None)
        if limit is not None and positions > limit:
            longest = max(questions, key=len)
            raise UserError(
                f"{longest[:60]!r} … with its images and answer is {positions} tokens long, but {self.pretrained} takes"
                f" {limit}: use fewer or smaller images, or a smaller max_new_tokens"
            )
