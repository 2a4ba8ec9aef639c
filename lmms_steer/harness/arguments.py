"""Split and check `--model` and `--model_args` without importing torch or lmms-eval, which takes ten seconds."""

import hashlib
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from os import PathLike
from typing import Any

from lmms_steer._util.io import write_atomically
from lmms_steer.errors import UserError, shorten, unknown_name
from lmms_steer.extraction.first_use import check_vectors
from lmms_steer.harness.names import MODELS, engine_error, runs_in_engine, wrapper_of
from lmms_steer.harness.presets import expand_preset, find_preset
from lmms_steer.models import CONTRAST_ARGS, MODEL_ARGS
from lmms_steer.steering.intervention import FIELDS
from lmms_steer.steering.row_vectors import refuse_row_vectors
from lmms_steer.steering.spec import SteeringSpec
from lmms_steer.vectors.backbones import model_name
from lmms_steer.vectors.given import given_folder, with_names

SPEC_KEYS = ("steering", *FIELDS)
"""The arguments that say how a model is steered."""
STEERED_MODEL_ARGS = ("preset", *SPEC_KEYS, *MODEL_ARGS)
"""The arguments that the `--model_args` of our models may contain."""
_OF_EVALUATIONS = {**dict.fromkeys(CONTRAST_ARGS, "a contrast"), "answer_bias": "an answer bias"}
"""Arguments that change an evaluation's answers, and that this package's own commands would ignore."""
SPELLING_CUTOFF = 0.78
"""An unknown argument that is as similar to a known one (difflib's ratio) is a misspelling of it: `vecter` and `vector`
have 0.83, `aplha` and `alpha` 0.8; `size`, which some models take, and `site` have 0.75."""


def check_model_args(model: str, model_args: str, unsteered: str = "") -> tuple[str | None, SteeringSpec]:
    """Read and check what can be read without lmms-eval.

    Args:
        model: of `--model`.
        model_args: of `--model_args`.
        unsteered: the error for keys of a spec, where the model must be the unsteered one.

    Returns:
        the checkpoint, or None if it is not given; and the spec.

    Raises:
        UserError: for a model that is not ours, an argument that is unknown, given twice or only for evaluations, a
            spec that cannot be read, or a vector that neither exists nor can be extracted.
    """
    check_model(model)
    args = {name: unquote(value) for name, value in split_args(model_args, "--model_args").items()}
    check_keys(args, STEERED_MODEL_ARGS)
    given, args = args, expand_preset(args)
    for name, what in _OF_EVALUATIONS.items():
        if name not in args:
            continue
        set_by = "" if name in given else f", which preset={shorten(given['preset'])} sets"
        remedy = "leave it out" if name in given else _without_contrast(str(given["preset"]))
        raise UserError(f"{name}={shorten(args[name])}{set_by}: {what} is for evaluations with lmms-eval; {remedy}")
    # checked first: otherwise the error would be about what such a key lacks
    if unsteered and any(key in args for key in SPEC_KEYS):
        raise UserError(unsteered)
    spec = SteeringSpec.from_args(args)
    refuse_row_vectors(spec)
    if "pretrained" in args:
        check_vectors(spec, args["pretrained"])
    return args.get("pretrained"), spec


def _without_contrast(preset: str) -> str:
    """What to do about a preset where contrasts are not for."""
    if not any(key in FIELDS for key in find_preset(preset).args):
        return "the preset has no other keys"
    return f"write out its other keys, which `lmms-steer presets {preset.partition(':')[0]}` prints"


def split_args(text: str, option: str) -> dict[str, str]:
    """The key=value pairs of an option's value, as lmms-eval splits them: at commas outside of quotes and brackets.

    Args:
        text: the option's value.
        option: its name, for the message.

    Raises:
        UserError: for a part that is not a pair, a key that is given several times, or a quote or bracket that is not
            closed, which would make what follows it part of one value.
    """
    parts = _split_at_commas(text, option)
    for part in parts:
        if "=" not in part:
            raise UserError(
                f"cannot read {option} {shorten(repr(text))}: {shorten(repr(part))} is no key=value pair; put a value"
                f" with a comma in double quotes, and the whole in single ones for the shell: {option} 'KEY=\"3,7\"'"
            )
    check_repeated(parts, option)
    return {name.strip(): value.strip() for name, value in (part.split("=", 1) for part in parts)}


def join_model_args(args: str | Mapping[str, object]) -> str:
    """Write the arguments of a model in one line, as `split_args` reads them; a line is returned as it is.

    Vectors and a spec that are objects are written to files, as no line can hold them.

    Raises:
        UserError: for a value that no quotes can hold, and an object that cannot be saved.
    """
    if isinstance(args, str):
        return args
    named = with_stored(args)
    if named.get("pretrained") is not None:
        named["pretrained"] = model_name(named["pretrained"])
    if isinstance(spec := named.get("steering"), SteeringSpec):
        content = spec.to_yaml().encode()
        name = f"spec-{hashlib.sha256(content).hexdigest()[:12]}.yaml"
        named["steering"] = write_atomically(given_folder() / name, content)
    return ",".join(f"{key}={_quoted(key, str(value))}" for key, value in named.items() if value is not None)


def with_stored(args: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a model with the names or files of vectors that were given as objects, also in a resolved spec.

    Raises:
        UserError: for vectors that cannot be saved, or an operation without a name.
    """
    named, steering = with_names(args), args.get("steering")
    if steering is None or isinstance(steering, str | int | float | PathLike | SteeringSpec):
        return named
    # these import torch
    from lmms_steer.steering.resolved import ResolvedSpec
    from lmms_steer.steering.reuse import stored_spec

    return named | {"steering": stored_spec(steering)} if isinstance(steering, ResolvedSpec) else named


def _quoted(key: str, value: str) -> str:
    if not set(value) & set(",[]{}\"'"):
        return value
    quote = next((mark for mark in "\"'" if mark not in value), "")
    if not quote or "\\" in value:
        raise UserError(f"{key}={shorten(value)}: no quotes can hold this value, with its quotes or backslash")
    return f"{quote}{value}{quote}"


def merge_args(given: Mapping[str, Any], additional: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `--model_args` with those that the harness gives by options of its own.

    Raises:
        UserError: for an argument that an option gives another value.
    """
    args = dict(given)
    for name, value in additional.items():
        if value is None:
            continue
        # --batch_size is 1 unless it is given
        default = name == "batch_size" and str(value) == "1"
        if name in args and not default and str(args[name]) != str(value):
            raise UserError(f"{name}={args[name]} in --model_args, but --{name} {value}: give one of them")
        args.setdefault(name, value)
    return args


def check_repeated(parts: Iterable[str], option: str) -> None:
    """Check that every key of some key=value pairs is given once.

    Raises:
        UserError: for a key that is given several times, with all its values.
    """
    given: dict[str, list[str]] = {}
    for part in parts:
        given.setdefault(part.split("=", 1)[0].strip(), []).append(part.strip())
    for name, pairs in given.items():
        if len(pairs) > 1:
            values = " and ".join(shorten(pair) for pair in pairs)
            raise UserError(f"{name} is given {len(pairs)} times in {option} ({values}): give it once")


def unquote(value: str) -> str:
    """A value without the quotes around it, which keep its commas from separating arguments."""
    return value[1:-1] if is_quoted(value) else value


def is_quoted(value: str) -> bool:
    """Whether a value stands in quotes, and is therefore text even if it looks like a number."""
    return len(value) > 1 and value[0] == value[-1] and value[0] in "'\""


def _split_at_commas(text: str, option: str) -> list[str]:
    parts, depth, quote = [""], 0, ""
    for before, char in zip(f" {text}", text, strict=False):
        if char in "\"'" and before != "\\" and quote in ("", char):
            quote = "" if quote else char
        elif not quote:
            depth += (char in "[{") - (char in "]}")
            if char == "," and depth == 0:
                parts.append("")
                continue
        parts[-1] += char
    if (quote or depth) and "," in parts[-1]:
        what = f"the quote {quote}" if quote else "a bracket"
        raise UserError(f"{what} in {option} is not closed, so {shorten(parts[-1])} would be one value")
    return [part for part in parts if part.strip()]


def check_keys(
    given: Iterable[str], known: Collection[str], takes_others: bool = False, option: str = "--model_args"
) -> None:
    """Check the names of arguments, so that a misspelled one is neither ignored nor blamed on another one.

    Args:
        given: the names in the option.
        known: the names that the model declares, the keys of a spec included.
        takes_others: whether the model also takes arguments that it does not declare. Of those, only a misspelling of a
            known one is refused.
        option: its name, for the message.

    Raises:
        UserError: for an unknown name, with the nearest known one.
    """
    for name in given:
        if name in known or (takes_others and not get_close_matches(name, known, n=1, cutoff=SPELLING_CUTOFF)):
            continue
        raise unknown_name("key", name, known, f"in {option}")


def check_model(model: str) -> None:
    """Check that `--model` names one of this package's own models.

    Raises:
        UserError: for another model; also for a steered wrapper of lmms-eval (`steered_qwen2_5_vl`).
    """
    if model in MODELS:
        return
    wrapper = wrapper_of(model)
    if wrapper is None:
        raise unknown_name("model", model, MODELS)
    if runs_in_engine(wrapper):
        raise engine_error(wrapper)
    raise UserError(
        f"{model} works in lmms-eval only; use --model steered_hf, which loads the same checkpoint if transformers can"
    )
