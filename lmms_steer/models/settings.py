"""What stands in `--model_args` and in a task's `generation_kwargs`, checked and put into transformers' terms."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from lmms_steer.errors import UserError, one_line, unknown

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


def checked_dtype(dtype: str, device: torch.device) -> str:
    """`auto` is the checkpoint's own on an accelerator, and float32 on a processor, where half precision is slow."""
    if dtype not in _DTYPES:
        raise unknown("dtype", dtype, _DTYPES)
    return "float32" if dtype == "auto" and device.type == "cpu" else dtype


def yes_or_no(name: str, value: object) -> bool:
    """A switch: lmms-eval hands `True` and `False` over as such; any other text is no answer."""
    if not isinstance(value, bool):
        raise UserError(f"{name}={value}: expected True or False")
    return value


def loaded(name: str, load: Callable[..., Any], source: str, **options: Any) -> Any:
    """What `load` gives for a source; what it cannot load is a mistake in `name`."""
    try:
        return load(source, **options)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"cannot load the checkpoint {name!r}: {one_line(error)}") from error


def positive(name: str, value: int | str) -> int:
    """A whole number from 1 up."""
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise UserError(f"{name}={value}: expected a whole number from 1 up")
    return number


def generate_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """A task's `generation_kwargs` for `generate`: greedy unless it says otherwise, other keys left out."""
    chosen = {key: settings[key] for key in _GENERATE_KEYS if settings.get(key) is not None}
    temperature = settings.get("temperature")
    sample = bool(settings.get("do_sample", (temperature or 0) > 0))
    if sample:
        chosen |= {k: settings[k] for k in ("temperature", "top_p") if settings.get(k) is not None}
    return {"max_new_tokens": 1024, **chosen, "do_sample": sample}


def cut(text: str, until: str | Sequence[str]) -> str:
    """A text up to the first of the strings that end it."""
    for stop in _strings(until):
        text = text.split(stop, maxsplit=1)[0]
    return text


def _strings(until: str | Sequence[str]) -> Iterator[str]:
    yield from (stop for stop in ([until] if isinstance(until, str) else until) if stop)
