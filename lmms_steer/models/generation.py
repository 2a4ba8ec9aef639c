"""Check a task's `generation_kwargs`, and turn them into options of transformers' `generate`.

Every setting takes effect, is logged as having none, or is refused. The tables below say which.
"""

import json
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from transformers import GenerationConfig

from lmms_steer.errors import UserError, shorten, unknown_name
from lmms_steer.steering.intervention import FIELDS

logger = logging.getLogger(__name__)

MAX_NEW_TOKENS = 1024
"""Default of `max_new_tokens` for tasks that do not set it."""


@dataclass(frozen=True, slots=True)
class _Range:
    """The numbers that a setting may have."""

    low: float = 0
    high: float = math.inf
    whole: bool = False
    above_low: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.low == -math.inf:
            return kind
        start = f"{kind} above {self.low:g}" if self.above_low else f"{kind} from {self.low:g}"
        return f"{start} up" if self.high == math.inf else f"{start} to {self.high:g}"

    def read(self, name: str, value: object) -> int | float:
        """The value as `generate` takes it; task files and command lines write `1`, `1.0` and `"1"` for the same."""
        try:
            number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else math.nan
        except (ValueError, OverflowError):
            number = math.nan
        allowed = self.low < number <= self.high if self.above_low else self.low <= number <= self.high
        if not math.isfinite(number) or not allowed or (self.whole and number != int(number)):
            raise _wrong(name, value, str(self))
        return int(number) if self.whole else number


SETTINGS = {
    "max_new_tokens": _Range(low=1, whole=True),
    "min_new_tokens": _Range(whole=True),
    "num_beams": _Range(low=1, whole=True),
    "length_penalty": _Range(low=-math.inf),
    "repetition_penalty": _Range(above_low=True),
    "no_repeat_ngram_size": _Range(whole=True),
    "temperature": _Range(),
    "top_p": _Range(high=1),
    "top_k": _Range(whole=True),
    "min_p": _Range(high=1),
    "typical_p": _Range(high=1, above_low=True),
}
"""Numbers that are passed to `generate`, and their ranges."""
SWITCHES = ("do_sample", "early_stopping")
MAX_GEN_TOKS = "max_gen_toks"
"""lm-eval's name for `max_new_tokens`."""
IGNORED = ("image_aspect_ratio", "max_agentic_steps", "seed", "skip_special_tokens", "stop_sequences", "visual_cot")
"""What some of lmms-eval's task files set for particular models. lmms-eval's general wrappers ignore it too."""
KNOWN = (*SETTINGS, *SWITCHES, "until", MAX_GEN_TOKS, *IGNORED)
TRANSFORMERS = frozenset(name for name in vars(GenerationConfig()) if not name.startswith("_"))
"""All settings that `generate` has."""

_INSTEAD = {"max_length": "max_new_tokens", "min_length": "min_new_tokens", "stop_strings": "until"}
_SAMPLING = {"temperature": (0,), "top_p": (0, 1), "top_k": (0, 1), "min_p": (0,), "typical_p": (1,)}
"""Settings that only sampling uses ▸ the values that greedy decoding agrees with."""
_BEAMS = {"length_penalty": (1,), "early_stopping": (False,)}
"""Settings that only beam search uses ▸ the values that change nothing there."""


def generation_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `generate` from a task's `generation_kwargs`.

    Decoding is greedy unless the settings ask for sampling: by `do_sample`, or by a temperature if `do_sample` is not
    given. Temperature 0 is always greedy. What has no effect is logged once a process.

    Raises:
        UserError: for an unknown setting, one that is not supported, or a wrong value.
    """
    options = _read(settings)
    for name in IGNORED:
        if settings.get(name) is not None:
            log_once(logging.INFO, f"generation_kwargs: {name} is for other models; it is ignored")
    for line in _without_effect(options).values():
        log_once(logging.WARNING, f"generation_kwargs: {line}")
    sample = _samples(options)
    used = {name: value for name, value in options.items() if sample or name not in _SAMPLING}
    return {"max_new_tokens": MAX_NEW_TOKENS, **used, "do_sample": sample}


def check_given_settings(settings: Mapping[str, Any], given: Collection[str]) -> None:
    """Check `generation_kwargs` before a run, those that the user gave more strictly than those of the task's file.

    Args:
        settings: all of them.
        given: the names of the user's own, which must have an effect.

    Raises:
        UserError: as `generation_settings`; also for a setting of the user's that has no effect.
    """
    stop_strings(settings)
    for name, line in _without_effect(_read(settings)).items():
        if name in given:
            raise UserError(f"--gen_kwargs: {line}")


def stop_strings(settings: Mapping[str, Any]) -> list[str]:
    """The strings that end an answer: `until`, which is a text, a list, or on a command line a list written as JSON.

    Raises:
        UserError: for anything else.
    """
    until = settings.get("until")
    if isinstance(until, str):
        text = until.strip()
        quoted = len(text) > 1 and text[0] == text[-1] == '"'
        try:
            until = json.loads(text) if text.startswith("[") or quoted else until
        except ValueError as error:
            raise _wrong("until", until, 'a text, or a list such as ["a","b"]') from error
    strings = [until] if isinstance(until, str) else [] if until is None else until
    if not isinstance(strings, list | tuple) or not all(isinstance(stop, str) for stop in strings):
        raise _wrong("until", until, 'a text, or a list such as ["a","b"]')
    return list(strings)


def cut_at(text: str, until: str | Sequence[str]) -> str:
    """A text up to the first of the strings that end it; empty strings are ignored."""
    for stop in [until] if isinstance(until, str) else until:
        if stop:
            text = text.split(stop, maxsplit=1)[0]
    return text


def _read(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that `generate` takes, checked; those that are null are left out."""
    options: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in KNOWN:
            raise _refused(name, value)
        if value is None or name in IGNORED or name == "until":
            continue
        own = "max_new_tokens" if name == MAX_GEN_TOKS else name
        read = _switch(name, value) if name in SWITCHES else SETTINGS[own].read(name, value)
        if options.setdefault(own, read) != read:
            raise UserError(f"generation_kwargs: {MAX_GEN_TOKS} and max_new_tokens are the same setting: give one")
    least, most = options.get("min_new_tokens", 0), options.get("max_new_tokens", MAX_NEW_TOKENS)
    if least > most:
        raise UserError(f"generation_kwargs: min_new_tokens={least} is more than max_new_tokens={most}")
    return options


def _switch(name: str, value: object) -> object:
    if not isinstance(value, bool) and (name, value) != ("early_stopping", "never"):
        raise _wrong(name, value, "True or False")
    return value


def _samples(options: Mapping[str, Any]) -> bool:
    temperature = options.get("temperature")
    return bool(options.get("do_sample", temperature)) and temperature != 0


def _without_effect(options: Mapping[str, Any]) -> dict[str, str]:
    """Setting ▸ why it has no effect beside the others."""
    lines = {}
    if not _samples(options):
        greedy = "temperature=0" if options.get("temperature") == 0 else "do_sample=False"
        remedy = "a temperature above 0" if greedy == "temperature=0" else "do_sample=True"
        why = f"has no effect with {greedy}: give {remedy} to sample"
        lines = {name: f"{name}={options[name]:g} {why}" for name in _SAMPLING if name in options}
        lines = {name: line for name, line in lines.items() if options[name] not in _SAMPLING[name]}
        if options.get("do_sample") and greedy == "temperature=0":
            lines["do_sample"] = f"do_sample=True {why}"
    if options.get("num_beams", 1) == 1:
        idle = [name for name, neutral in _BEAMS.items() if name in options and options[name] not in neutral]
        lines |= {name: f"{name}={options[name]} has no effect without num_beams above 1" for name in idle}
    return lines


def _wrong(name: str, value: object, expected: str) -> UserError:
    return UserError(f"generation_kwargs: {name}={shorten(value)}: expected {expected}")


def _refused(name: str, value: object) -> UserError:
    if name in FIELDS:
        return UserError(f"generation_kwargs: {name} is part of a spec: give it in --model_args")
    if name not in TRANSFORMERS:
        return unknown_name("key", name, KNOWN, "in generation_kwargs")
    instead = f"use {_INSTEAD[name]}" if name in _INSTEAD else f"supported are {', '.join(sorted(KNOWN))}"
    return UserError(f"generation_kwargs: {name}={shorten(value)} is not supported here: {instead}")


@cache
def log_once(level: int, line: str) -> None:
    """Log a line about decoding, once a process."""
    logger.log(level, line)
