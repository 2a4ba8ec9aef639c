"""Load a text model from `--model_args`, and make model inputs from prompts, with the interface of `HfCheckpoint`."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lmms_steer.errors import UserError, unknown_name
from lmms_steer.models.loading import (
    check_bool,
    load_model,
    load_or_refuse,
    no_model,
    quantization_options,
    resolve_dtype,
    usable_device,
)
from lmms_steer.steering.support import check_config
from lmms_steer.vectors.backbones import checkpoint

TEXT_FORMATS = ("plain", "chat")
"""`prompt_format` of a text model: the prompt as it is, or as one user turn of the tokenizer's chat template."""


class HfText:
    """A text model with its tokenizer, on its device. The arguments are those of `--model_args`.

    Args:
        pretrained: any checkpoint that AutoModelForCausalLM loads (a Hub id or a folder), or `tiny-gemma2`.
        revision, dtype, device_map, attn_implementation, trust_remote_code, load_in_4bit, load_in_8bit: as for
            `lmms_steer.models.checkpoint.HfCheckpoint`.
        device: `cuda:0`, `cpu`, …; by default a GPU if there is one.
        prompt_prefix: text before every prompt, followed by a space.
        prompt_format: `plain`, the prompt as it is; or `chat`, one user turn of the chat template.

    Attributes:
        model: the loaded model, in eval mode.
        config: its config.
        revision: of a Hub id, as the user named it; None for `main`.
        tokenizer: its tokenizer.

    Raises:
        UserError: for a wrong argument, or a model that takes images or cannot be loaded.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        revision: str | None = None,
        dtype: str = "auto",
        device: str | None = None,
        device_map: str | None = None,
        attn_implementation: str | None = None,
        trust_remote_code: bool = False,
        load_in_4bit: bool = False,
        load_in_8bit: bool = False,
        prompt_prefix: str = "",
        prompt_format: str = "plain",
        **others: Any,
    ) -> None:
        if pretrained is None:
            raise no_model()
        for name, value in others.items():
            if name not in ("batch_size", "max_batch_size"):
                raise UserError(f"{name}={value}: {pretrained} is a text model, which has no such setting here")
        self.pretrained = str(pretrained)
        self.prompt_prefix = f"{prompt_prefix} " if prompt_prefix else ""
        device_used = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        dtype = resolve_dtype(dtype, device_used)
        options: dict[str, Any] = {"trust_remote_code": check_bool("trust_remote_code", trust_remote_code)}
        options |= {"revision": str(revision)} if revision is not None else {}
        self.revision = options.get("revision")
        source = checkpoint(self.pretrained)
        self.config = load_or_refuse(self.pretrained, AutoConfig.from_pretrained, source, **options)
        check_config(self.config, self.pretrained)
        self.prepare()
        self.tokenizer = load_or_refuse(self.pretrained, AutoTokenizer.from_pretrained, source, **options)
        self.prompt_format = self._checked_format(str(prompt_format))
        if attn_implementation is not None:
            options["attn_implementation"] = attn_implementation
        bits = quantization_options(check_bool("load_in_4bit", load_in_4bit), check_bool("load_in_8bit", load_in_8bit))
        options |= {"dtype": dtype, **bits}
        self.model = load_model(self.pretrained, source, device_used, device_map, AutoModelForCausalLM, **options)

    def prepare(self) -> None:
        """A hook for subclasses: runs once the config is read and before the weights are, to refuse mistakes early."""

    def model_inputs(self, prompts: Sequence[str], visuals: Sequence[Sequence[Any]] = ()) -> dict[str, Any]:
        """Model inputs for prompts: left-padded, on the device.

        Args:
            prompts: the prompts, without the prefix.
            visuals: of each prompt; a text model takes none.

        Raises:
            UserError: for a prompt with an image, or without a token.
        """
        if any(visuals):
            raise UserError(f"{self.pretrained} is a text model: it takes no images")
        texts, special = [self.prompt_prefix + prompt for prompt in prompts], True
        if self.prompt_format == "chat":
            turns = [[{"role": "user", "content": text}] for text in texts]
            # the template writes the special tokens itself
            texts = self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
            special = False
        batch = self.tokenizer(
            texts, return_tensors="pt", padding=len(texts) > 1, padding_side="left", add_special_tokens=special
        )
        if batch["input_ids"].shape[1] == 0:
            raise UserError("the prompt is empty: a text model needs at least one token")
        batch = batch.to(self.model.device)
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    def _checked_format(self, name: str) -> str:
        if name not in TEXT_FORMATS:
            raise unknown_name("prompt_format", name, TEXT_FORMATS, "of a text model")
        if name == "chat" and not self.tokenizer.chat_template:
            raise UserError(f"prompt_format=chat: the tokenizer of {self.pretrained} has no chat template")
        return name
