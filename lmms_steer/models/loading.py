"""Load weights onto a device, and check the arguments of `--model_args`."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import PurePath
from typing import Any

import torch
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import (
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    BitsAndBytesConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    MODEL_FOR_MULTIMODAL_LM_MAPPING,
)

from lmms_steer._util.logging import quiet_in_logs
from lmms_steer.errors import UserError, first_line, unknown_name
from lmms_steer.models import DTYPES
from lmms_steer.tiny_world.checkpoints import SHIPPED_MODELS

UNLOADABLE = (OSError, ValueError, ImportError, KeyError, SafetensorError)
"""What `from_pretrained` raises for a checkpoint that is damaged, incomplete or unknown."""
_PIXEL_LIMITS = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
"""Settings ▸ their keys in the `size` of image processors that count pixels there (transformers 5.24)."""


def no_model(key: str = "pretrained") -> UserError:
    """The error for model arguments that name no checkpoint."""
    return UserError(f"no model: add {key}=NAME to --model_args, a Hub id or a folder")


_SPREADING = ("auto", "balanced", "balanced_low_0", "sequential")
"""Values of `device_map` that name no device."""


def usable_device(name: str, key: str = "device") -> torch.device:
    """The torch device of a name, if this machine can allocate memory on it.

    Args:
        name: cpu, cuda, cuda:1, mps, …
        key: the argument that names it, for the message.

    Raises:
        UserError: for a name that is not a device, or a device that this machine does not have.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"{key}={name} cannot be used here: {first_line(error)}") from error
    return device


def checkpoint_name(pretrained: object) -> str:
    """The name or folder of a checkpoint, as `pretrained` gives it.

    Raises:
        UserError: for anything else, such as a loaded model.
    """
    if not isinstance(pretrained, str | PurePath):
        raise UserError(
            f"pretrained is a {type(pretrained).__name__}: give a checkpoint's name or folder; in Python,"
            " lmms_steer.steer(model, …) steers a loaded model"
        )
    return str(pretrained)


def load_or_refuse(name: str, load: Callable[..., Any], source: str, **options: Any) -> Any:
    """Call a `from_pretrained` function, with one kind of error for whatever cannot be loaded.

    Args:
        name: the checkpoint as the user named it, for the message.
        load: called with `source` and `options`.
        source: a Hub id or a folder.
        **options: for `load`.

    Raises:
        UserError: when it cannot be loaded.
    """
    try:
        return load(source, **options)
    except UNLOADABLE as error:
        raise UserError(f"cannot load the checkpoint {name!r}: {loading_problem(error)}") from error


def loading_problem(error: Exception) -> str:
    """Why a `from_pretrained` function failed, in one line; it can be a name that is no folder and not on the Hub."""
    if isinstance(error, SafetensorError):
        return f"a file of its weights is cut off or damaged: {first_line(error)}"
    cause = error.__cause__
    if isinstance(cause, LocalEntryNotFoundError | RepositoryNotFoundError) and not isinstance(cause, GatedRepoError):
        return f"neither a folder nor reachable on the Hub ({', '.join(SHIPPED_MODELS)} ship with this package)"
    return first_line(error)


def load_model(
    name: str, source: str, device: torch.device, device_map: str | None,
    auto_class: Any = AutoModelForImageTextToText, **options: Any,
) -> Any:  # fmt: skip
    """Load a model in eval mode, on its device or spread over devices by `device_map`.

    Args:
        name, source: as for `load_or_refuse`.
        device: where to load it; without effect if `device_map` is given.
        device_map: as in transformers; None for one device.
        auto_class: the class of transformers that loads it.
        **options: for `from_pretrained`.

    Raises:
        UserError: when it cannot be loaded.
    """
    if device_map is not None:
        if device_map not in _SPREADING:
            usable_device(device_map, "device_map")
        options["device_map"] = device_map
    with quiet_in_logs():
        model = load_or_refuse(name, auto_class.from_pretrained, source, **options)
    if device_map is None and "quantization_config" not in options:
        model = model.to(device)
    return model.eval()


def is_text_config(config: Any) -> bool:
    """Whether a config is of a model that takes neither images nor audio."""
    known = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING or type(config) in MODEL_FOR_MULTIMODAL_LM_MAPPING
    return not known and not any(hasattr(config, name) for name in ("vision_config", "audio_config"))


def auto_class_of(config: Any) -> Any:
    """The class of transformers that loads a multimodal model with this config."""
    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return AutoModelForImageTextToText
    if type(config) in MODEL_FOR_MULTIMODAL_LM_MAPPING:
        return AutoModelForMultimodalLM
    # Audio Flamingo 3 is decoder-only, and nevertheless found here alone
    return AutoModelForSeq2SeqLM if hasattr(config, "audio_config") else AutoModelForImageTextToText


def quantization_options(load_in_4bit: bool, load_in_8bit: bool) -> dict[str, Any]:
    """The options of `from_pretrained` for bitsandbytes; empty if neither is set.

    Raises:
        UserError: if both are set, or bitsandbytes is not installed.
    """
    if not (load_in_4bit or load_in_8bit):
        return {}
    if load_in_4bit and load_in_8bit:
        raise UserError("load_in_4bit and load_in_8bit: choose one")
    if find_spec("bitsandbytes") is None:
        raise UserError("loading in 4 or 8 bits needs the package bitsandbytes")
    config = BitsAndBytesConfig(load_in_4bit=load_in_4bit, load_in_8bit=load_in_8bit)
    return {"quantization_config": config}


def configure_images(processor: Any, settings: dict[str, Any]) -> None:
    """Change settings of the image processor: `size` (longest edge), `do_image_splitting`, `min_pixels`, `max_pixels`.

    Raises:
        UserError: for a setting that this processor does not have.
    """
    images: Any = getattr(processor, "image_processor", None)
    in_pixels = _limits_pixels(images)
    for name, value in settings.items():
        if in_pixels and name in _PIXEL_LIMITS:
            images.size = {**dict(images.size), _PIXEL_LIMITS[name]: check_positive(name, value)}
        elif in_pixels and name == "size":
            raise UserError(f"size={value}: a {type(images).__name__} limits the number of pixels: give max_pixels")
        elif name == "size":
            if "longest_edge" not in dict(getattr(images, "size", {})):
                raise UserError(f"size={value}: a {type(images).__name__} has no longest edge to set")
            longest = check_positive("size", value)
            edges = {edge: min(pixels, longest) for edge, pixels in dict(images.size).items()}
            images.size = {**edges, "longest_edge": longest}
        elif not hasattr(images, name):
            raise UserError(f"{name}={value}: a {type(images).__name__} has no such setting")
        else:
            check = check_bool if name == "do_image_splitting" else check_positive
            setattr(images, name, check(name, value))
    if in_pixels and settings.keys() & _PIXEL_LIMITS.keys():
        least, most = (dict(images.size)[edge] for edge in _PIXEL_LIMITS.values())
        if least > most:
            raise UserError(f"min_pixels={least} is larger than max_pixels={most}: no image has such a size")


def _limits_pixels(images: Any) -> bool:
    """Whether the edges in the `size` of an image processor are numbers of pixels (Qwen2-VL, GLM-4V)."""
    if any(hasattr(images, name) for name in _PIXEL_LIMITS):
        return False
    # without patches of its own, as in Idefics2, a processor counts edges
    return hasattr(images, "patch_size") and set(_PIXEL_LIMITS.values()) <= set(dict(getattr(images, "size", {})))


def configure_videos(processor: Any, settings: dict[str, Any]) -> None:
    """Set how a video is sampled: `fps`, frames a second, or `num_frames`, at equal distances.

    Raises:
        UserError: for both, or a processor that takes no videos.
    """
    if not settings:
        return
    videos = getattr(processor, "video_processor", None)
    if videos is None:
        raise UserError(f"{', '.join(settings)}: a {type(processor).__name__} takes no videos")
    if len(settings) > 1:
        raise UserError("fps and num_frames: give one of them")
    videos.fps = videos.num_frames = None
    videos.do_sample_frames = True
    for name, value in settings.items():
        setattr(videos, name, check_positive(name, value) if name == "num_frames" else _check_rate(value))


def _check_rate(value: int | float | str) -> float:
    try:
        rate = 0.0 if isinstance(value, bool) else float(value)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1000:
        raise UserError(f"fps={value}: expected a number of frames a second, as in fps=2")
    return rate


def resolve_dtype(dtype: str, device: torch.device) -> str:
    """The dtype to load; `auto` is the checkpoint's own on an accelerator, and float32 on a CPU, where others are slow.

    Raises:
        UserError: for an unknown dtype.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    return "float32" if dtype == "auto" and device.type == "cpu" else dtype


def check_bool(name: str, value: object) -> bool:
    """A boolean argument. lmms-eval parses `True` and `False`; every other spelling arrives as text and is refused.

    Raises:
        UserError: for a value that is not a boolean.
    """
    if not isinstance(value, bool):
        raise UserError(f"{name}={value}: expected True or False")
    return value


def check_positive(name: str, value: float | str) -> int:
    """An argument that must be a whole number from 1 up.

    Raises:
        UserError: for another value.
    """
    try:
        # True is a number in Python
        number = 0 if isinstance(value, bool) else int(value)
    except (ValueError, OverflowError):
        number = 0
    if number < 1 or number != float(value):
        raise UserError(f"{name}={value}: expected a whole number from 1 up")
    return number
