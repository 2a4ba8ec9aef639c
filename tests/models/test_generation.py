"""A task's `generation_kwargs`: what takes effect, what is refused, and that transformers accepts what is accepted."""

import glob
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import GenerationConfig

from lmms_steer import UserError
from lmms_steer.models import generation
from lmms_steer.models.generation import (
    IGNORED,
    KNOWN,
    MAX_NEW_TOKENS,
    SETTINGS,
    check_given_settings,
    generation_settings,
    stop_strings,
)
from tests.helpers.checkpoints import build
from tests.helpers.models import picture


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"do_sample": False}),
        ({"temperature": 0, "top_p": 1.0, "num_beams": 1}, {"do_sample": False, "num_beams": 1}),
        ({"temperature": 1}, {"do_sample": True, "temperature": 1.0}),
        ({"do_sample": True, "temperature": 5, "top_k": "3"}, {"do_sample": True, "temperature": 5.0, "top_k": 3}),
        ({"do_sample": True, "top_p": "0.9"}, {"do_sample": True, "top_p": 0.9}),
        ({"do_sample": True, "temperature": 0}, {"do_sample": False}),
        ({"do_sample": False, "temperature": 0.7}, {"do_sample": False}),
        (
            {"num_beams": 2.0, "early_stopping": "never"},
            {"do_sample": False, "num_beams": 2, "early_stopping": "never"},
        ),
        ({"max_gen_toks": 7, "temperature": None}, {"do_sample": False, "max_new_tokens": 7}),
        ({"until": ["\n"], "image_aspect_ratio": "pad"}, {"do_sample": False}),
    ],
)
def test_settings_are_read_as_generate_takes_them(given: dict[str, Any], expected: dict[str, Any]) -> None:
    options = generation_settings(given)
    assert options == {"max_new_tokens": MAX_NEW_TOKENS, **expected}
    assert {name: type(value) for name, value in options.items()} == {
        name: type(value) for name, value in {"max_new_tokens": 1, **expected}.items()
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"max_new_tokenz": 5}, "unknown key 'max_new_tokenz' in generation_kwargs: did you mean 'max_new_tokens'"),
        ({"alpha": 0.5}, "alpha is part of a spec: give it in --model_args"),
        ({"max_length": 9}, "max_length=9 is not supported here: use max_new_tokens"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 is not supported here: supported are do_sample"),
        ({"top_p": "many"}, "top_p=many: expected a number from 0 to 1"),
        ({"top_k": -1.0}, "top_k=-1.0: expected a whole number from 0 up"),
        ({"num_beams": 1.5}, "num_beams=1.5: expected a whole number from 1 up"),
        ({"num_beams": True}, "num_beams=True: expected a whole number"),
        ({"temperature": float("nan")}, "temperature=nan: expected a number from 0 up"),
        ({"repetition_penalty": 0}, "repetition_penalty=0: expected a number above 0 up"),
        ({"do_sample": "yes"}, "do_sample=yes: expected True or False"),
        ({"max_gen_toks": 5, "max_new_tokens": 6}, "are the same setting: give one"),
        ({"max_new_tokens": 5, "min_new_tokens": 6}, "min_new_tokens=6 is more than max_new_tokens=5"),
    ],
)
def test_wrong_settings_are_one_line(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        generation_settings(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("task", "given", "expected"),
    [
        ({"do_sample": False}, {"temperature": 0.7}, "temperature=0.7 has no effect with do_sample=False"),
        ({"temperature": 0}, {"do_sample": True}, "do_sample=True has no effect with temperature=0"),
        ({}, {"top_p": 0.9}, "top_p=0.9 has no effect with do_sample=False"),
        ({"num_beams": 1}, {"length_penalty": 2}, "length_penalty=2.0 has no effect without num_beams above 1"),
    ],
)
def test_what_the_user_gives_must_have_an_effect_and_what_the_task_gives_is_a_warning(
    task: dict[str, Any], given: dict[str, Any], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_given_settings({**task, **given}, ())
    with pytest.raises(UserError, match=expected):
        check_given_settings({**task, **given}, given)
    generation.log_once.cache_clear()
    with caplog.at_level(logging.INFO, "lmms_steer"):
        for _ in range(2):
            generation_settings({**task, **given})
    assert [expected in record.message for record in caplog.records] == [True]


def test_neutral_values_need_no_sampling() -> None:
    check_given_settings({"temperature": 0, "top_p": 0, "top_k": 1, "num_beams": 1}, SETTINGS)


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ("t", ["t"]),
        (["a", "b"], ["a", "b"]),
        ('["a,b", "\\n"]', ["a,b", "\n"]),
        ('"a,b"', ["a,b"]),
        (None, []),
    ],
)
def test_until_is_a_text_or_a_list(until: Any, expected: list[str]) -> None:
    assert stop_strings({"until": until}) == expected


@pytest.mark.parametrize("until", [5, '["a', [1], {"a": 1}])
def test_until_is_refused_as_anything_else(until: Any) -> None:
    with pytest.raises(UserError, match="until=.*expected a text, or a list"):
        stop_strings({"until": until})


def test_generate_has_every_supported_setting_and_accepts_both_ends_of_its_range() -> None:
    assert set(SETTINGS) < set(vars(GenerationConfig()))
    model, processor = build("llava")
    inputs = processor(text=["<image> where is it ?"], images=[picture(0)], return_tensors="pt")
    low = {"temperature": 0.1, "repetition_penalty": 0.1, "typical_p": 0.1, "length_penalty": -1}
    for ends in ({name: allowed.low for name, allowed in SETTINGS.items()} | low, dict.fromkeys(SETTINGS, 1)):
        options = generation_settings({"do_sample": True, **ends})
        assert {name: options[name] for name in SETTINGS} == ends
        model.generate(**inputs, **options)


class _Loader(yaml.SafeLoader):
    """Reads `!function` and `!env` as None."""


_Loader.add_multi_constructor("!", lambda *_: None)


def test_the_settings_of_all_task_files_of_lmms_eval_are_accepted() -> None:
    spec = find_spec("lmms_eval")
    assert spec is not None and spec.submodule_search_locations
    found: dict[str, dict[str, Any]] = {}
    for path in glob.glob(f"{spec.submodule_search_locations[0]}/tasks/**/*", recursive=True):
        text = Path(path).read_text(encoding="utf-8") if path.endswith(("yaml", "yml")) else ""
        start = text.find("\ngeneration_kwargs:")
        if start < 0:
            continue
        # the block alone, because reading whole files takes seconds
        block = text[start + 1 :].split("\n")
        end = next((n for n, line in enumerate(block) if n and line and line[0] not in " #"), len(block))
        settings = yaml.load("\n".join(block[:end]), _Loader)["generation_kwargs"]  # noqa: S506
        found[str(settings)] = settings or {}
    for settings in found.values():
        generation_settings(settings)
        stop_strings(settings)
    used = {name for settings in found.values() for name in settings}
    assert set(IGNORED) <= used <= set(KNOWN) and len(found) > 50
