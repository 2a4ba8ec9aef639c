"""The device that a user names, tried before anything is loaded onto it.

From `--model_args` to a loaded model and processor: device maps, few bits, image settings.

What stands in `--model_args` and in a task's `generation_kwargs`, checked and put into transformers' terms.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForImageTextToText

from lmms_steer._util.logging import quiet_in_logs
from lmms_steer.errors import UserError, first_line, unknown_name

if TYPE_CHECKING:
    import torch


def usable_device(name: str) -> "torch.device":
    """
    Args:
        name: cpu, cuda, cuda:1, mps, …

    Raises:
        UserError: for what is no device, or none that this machine has.
    """
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device={name} cannot be used here: {first_line(error)}") from error
    return device


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
        raise UserError(f"cannot load the checkpoint {name!r}: {first_line(error)}") from error
    if device_map is None and "quantization_config" not in options:
        model = model.to(device)
    return model.eval()


def refuse_encoder_decoder(name: str, config: Any) -> None:
    """An encoder reads the prompt there, and what a decoder layer adds reaches the answer only."""
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(f"{name} is an encoder-decoder ({config.model_type}): steering is for decoder-only models")


def quantization_options(load_in_4bit: bool, load_in_8bit: bool) -> dict[str, Any]:
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


def configure_images(processor: Any, settings: dict[str, Any]) -> None:
    """Change what the image processor does: `size` (longest edge), `do_image_splitting`, `min_pixels`, `max_pixels`.

    Raises:
        UserError: for a setting that this processor does not have.
    """
    images = processor.image_processor
    for name, value in settings.items():
        if name == "size":
            if "longest_edge" not in dict(images.size):
                raise UserError(f"size={value}: a {type(images).__name__} has no longest edge to set")
            images.size = {"longest_edge": check_positive("size", value)}
        elif not hasattr(images, name):
            raise UserError(f"{name}={value}: a {type(images).__name__} has no such setting")
        else:
            setattr(images, name, value if name == "do_image_splitting" else check_positive(name, value))


_GENERATE_KEYS = (
    "max_new_tokens",
    "min_new_tokens",
    "num_beams",
    "top_k",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
)
_DTYPES = ("auto", "float32", "bfloat16", "float16")


def resolve_dtype(dtype: str, device: torch.device) -> str:
    """`auto` is the checkpoint's own on an accelerator, and float32 on a processor, where half precision is slow."""
    if dtype not in _DTYPES:
        raise unknown_name("dtype", dtype, _DTYPES)
    return "float32" if dtype == "auto" and device.type == "cpu" else dtype


def check_bool(name: str, value: object) -> bool:
    """A switch: lmms-eval hands `True` and `False` over as such; any other text is no answer."""
    if not isinstance(value, bool):
        raise UserError(f"{name}={value}: expected True or False")
    return value


def load_or_refuse(name: str, load: Callable[..., Any], source: str, **options: Any) -> Any:
    """What `load` gives for a source; what it cannot load is a mistake in `name`."""
    try:
        return load(source, **options)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"cannot load the checkpoint {name!r}: {first_line(error)}") from error


def check_positive(name: str, value: int | str) -> int:
    """A whole number from 1 up."""
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise UserError(f"{name}={value}: expected a whole number from 1 up")
    return number


def generation_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """A task's `generation_kwargs` for `generate`: greedy unless it says otherwise, other keys left out."""
    chosen = {key: settings[key] for key in _GENERATE_KEYS if settings.get(key) is not None}
    temperature = settings.get("temperature")
    sample = bool(settings.get("do_sample", (temperature or 0) > 0))
    if sample:
        chosen |= {k: settings[k] for k in ("temperature", "top_p") if settings.get(k) is not None}
    return {"max_new_tokens": 1024, **chosen, "do_sample": sample}


def cut_at(text: str, until: str | Sequence[str]) -> str:
    """A text up to the first of the strings that end it."""
    for stop in _strings(until):
        text = text.split(stop, maxsplit=1)[0]
    return text


def _strings(until: str | Sequence[str]) -> Iterator[str]:
    yield from (stop for stop in ([until] if isinstance(until, str) else until) if stop)
