"""From `--model_args` to a loaded model and processor: device maps, few bits, image settings."""

from typing import Any

import torch
from transformers import AutoModelForImageTextToText

from lmms_steer.errors import UserError, one_line
from lmms_steer.models.settings import positive
from lmms_steer.quiet import quiet_in_logs


def load_model(name: str, source: str, device: torch.device, device_map: str | None, **options: Any) -> Any:
    """The model in eval mode, on its device, or spread over devices by `device_map`.

    Raises:
        UserError: when it cannot be loaded, or has an encoder that reads the text.
    """
    if device_map is not None:
        options["device_map"] = device_map
    try:
        with quiet_in_logs():
            model = AutoModelForImageTextToText.from_pretrained(source, **options)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"cannot load the checkpoint {name!r}: {one_line(error)}") from error
    if device_map is None and "quantization_config" not in options:
        model = model.to(device)
    return model.eval()


def refuse_encoder_decoder(name: str, config: Any) -> None:
    """An encoder reads the prompt there, and what a decoder layer adds reaches the answer only."""
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{name} is an encoder-decoder ({config.model_type}): steering is for decoder-only models")


def few_bits(load_in_4bit: bool, load_in_8bit: bool) -> dict[str, Any]:
    """The loading options of bitsandbytes.

    Raises:
        UserError: where both are asked for, or bitsandbytes is not installed.
    """
    if not (load_in_4bit or load_in_8bit):
        return {}
    if load_in_4bit and load_in_8bit:
        raise UserError("load_in_4bit and load_in_8bit: choose one")
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise UserError("loading in 4 or 8 bits needs the package bitsandbytes")
    config = BitsAndBytesConfig(load_in_4bit=load_in_4bit, load_in_8bit=load_in_8bit)
    return {"quantization_config": config}


def set_images(processor: Any, settings: dict[str, Any]) -> None:
    """Change what the image processor does: `size` (longest edge), `do_image_splitting`, `min_pixels`, `max_pixels`.

    Raises:
        UserError: for a setting that this processor does not have.
    """
    images = processor.image_processor
    for name, value in settings.items():
        if name == "size":
            if "longest_edge" not in dict(images.size):
                raise UserError(f"size={value}: a {type(images).__name__} has no longest edge to set")
            images.size = {"longest_edge": positive("size", value)}
        elif not hasattr(images, name):
            raise UserError(f"{name}={value}: a {type(images).__name__} has no such setting")
        else:
            setattr(images, name, value if name == "do_image_splitting" else positive(name, value))
