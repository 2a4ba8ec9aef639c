"""What differs between a run and the baseline apart from the system: prompts, decoding, seeds, and how they were run.

Everything is read from what lmms-eval and lm-eval log. What they did not log is reported as not recorded.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lmms_steer.comparison.identity import model_arguments
from lmms_steer.comparison.runs import RunResults
from lmms_steer.comparison.samples import Samples, logged_prompt
from lmms_steer.errors import UserError, shorten, unknown_name
from lmms_steer.models import CONTRAST_ARGS, IMAGE_SETTINGS
from lmms_steer.steering.intervention import FIELDS

DECISIVE = ("prompts", "decoding", "seeds", "image_settings", "model")
"""Kinds of differences that a gain would measure together with the system's own effect.

The model is decisive for steered runs and controls only: elsewhere it is the system that is compared.
"""
OTHER = "other"
"""The kind of differences that are shown and do not prevent a comparison, such as batch size and dtype."""
NOT_RECORDED = "not recorded"
_NOT_SET = "not set"

_PROMPT_ARGS = (
    *("prompt_prefix", "prompt_format", "system_prompt", "reasoning_prompt", "chat_template", "conv_template"),
    *("enable_thinking", "interleave_visuals"),
)
_DECODING_ARGS = ("do_sample", "temperature", "top_p", "top_k", "num_beams", "max_new_tokens", "max_length")
_IMAGE_ARGS = ("image", *IMAGE_SETTINGS, "max_num_frames", "max_frames_num", "num_frames", "fps", "max_image_size")
_MODEL_ARGS = ("pretrained", "revision")
_SYSTEM_ARGS = ("preset", "steering", *FIELDS, "answer_bias", *CONTRAST_ARGS)
"""Model arguments that make the system what it is."""
_MEASURING_ARGS = ("divergence",)
"""Model arguments that change no answer."""
_SHOWN_PROMPT = 60
"""Characters that are shown of a prompt that differs, from shortly before the first difference."""


@dataclass(frozen=True)
class Difference:
    """One setting in which a run differs from the baseline.

    Attributes:
        kind: one of `DECISIVE`, or `OTHER`.
        key: the setting's name.
        baseline: its value in the baseline; `NOT_RECORDED` if the log does not say.
        run: its value in the run, likewise. Both are `NOT_RECORDED` if neither log says it.
        questions: how many prompts differ in their text; 0 for settings.
    """

    kind: str
    key: str
    baseline: str
    run: str
    questions: int = 0

    @property
    def unknown(self) -> bool:
        """Whether neither run recorded the setting."""
        return self.run == self.baseline == NOT_RECORDED

    @property
    def decisive(self) -> bool:
        """Whether it prevents a comparison, unless it is allowed."""
        return self.kind in DECISIVE and not self.unknown

    def __str__(self) -> str:
        return f"{self.key} {self.run}, the baseline's {self.baseline}"


def check_kinds(allowed: Collection[str]) -> None:
    """Check names that the user typed for `--allow-different`.

    Raises:
        UserError: for a name that is not in `DECISIVE`.
    """
    if isinstance(allowed, str):
        raise UserError(f"expected a list of kinds of differences, not {allowed!r}")
    for kind in allowed:
        if kind not in DECISIVE:
            raise unknown_name("kind", kind, DECISIVE, "for --allow-different")


def setting_differences(run: Samples, baseline: Samples) -> list[Difference]:
    """List all settings in which a run's task differs from the baseline's, and those that neither recorded."""
    ours, theirs = _settings(run), _settings(baseline)
    whole = ("decoding", "generation_kwargs")
    if isinstance(ours[whole], dict) and isinstance(theirs[whole], dict):
        for settings in (ours, theirs):
            settings |= {("decoding", key): value for key, value in settings.pop(whole).items()}
    found = [
        Difference(kind, key, _written(theirs.get((kind, key), _NOT_SET)), _written(ours.get((kind, key), _NOT_SET)))
        for kind, key in dict.fromkeys((*theirs, *ours))
    ]
    differences = [one for one in found if one.run != one.baseline or one.unknown]
    if np.array_equal(run.keys, baseline.keys):
        differences = [*_different_prompts(run, baseline), *differences]
    records = (run.results.steering, baseline.results.steering)
    steered = any(record.get("spec") or record.get("answer_bias") or record.get("contrast") for record in records)
    return [one for one in differences if one.kind != "model"] + [
        Difference("model" if steered else OTHER, one.key, one.baseline, one.run)
        for one in differences
        if one.kind == "model"
    ]


def describe(differences: Collection[Difference]) -> str:
    """`other decoding: temperature 5.0, the baseline's not set; other seeds: …`."""
    by_kind: dict[str, list[str]] = {}
    for one in differences:
        by_kind.setdefault(one.kind, []).append(str(one))
    name = {OTHER: "settings", "image_settings": "image settings"}
    return "; ".join(f"other {name.get(kind, kind)}: {', '.join(texts)}" for kind, texts in by_kind.items())


def _settings(run: Samples) -> dict[tuple[str, str], Any]:
    """(kind, key) ▸ value; `NOT_RECORDED` for what the results file should name and does not."""
    content = run.results.content
    config = content.get("config") or {}

    def of_task(entry: str) -> Any:
        return (content.get(entry) or {}).get(run.task, NOT_RECORDED)

    settings: dict[tuple[str, str], Any] = {
        ("prompts", "shots"): of_task("n-shot"),
        ("prompts", "version of the task"): of_task("versions"),
        ("prompts", "system instruction"): content.get("system_instruction", NOT_RECORDED),
        ("prompts", "chat template"): content.get("chat_template_sha", NOT_RECORDED),
        ("prompts", "fewshot_as_multiturn"): content.get("fewshot_as_multiturn", NOT_RECORDED),
        **{("decoding", key): value for key, value in _decoding(run).items()},
        **{("seeds", key): NOT_RECORDED if value is None else value for key, value in run.results.seeds.items()},
        (OTHER, "model"): re.sub("^steered[_:]", "", str(config.get("model") or NOT_RECORDED)),
        **dict(_argument_settings(run.results)),
    }
    if config.get("batch_size") is not None:
        settings.setdefault((OTHER, "batch_size"), config["batch_size"])
    return settings


def _decoding(run: Samples) -> dict[str, Any]:
    """Return the settings of generation; both harnesses log them with the task, those of --gen_kwargs included."""
    task = (run.results.content.get("configs") or {}).get(run.task) or {}
    output_type = task.get("output_type", NOT_RECORDED)
    unset = NOT_RECORDED if output_type in (NOT_RECORDED, "generate_until") else {}
    return {
        "generation_kwargs": task.get("generation_kwargs") or unset,
        "output_type": output_type,
        "repeats": task.get("repeats", NOT_RECORDED),
    }


def _argument_settings(results: RunResults) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yield the settings among the model's arguments, without those that make the system."""
    recorded = (results.content.get("config") or {}).get("model_args", NOT_RECORDED)
    if recorded == NOT_RECORDED:
        yield ("prompts", "model_args"), NOT_RECORDED
        return
    for key, value in model_arguments(recorded).items():
        if key in (*_SYSTEM_ARGS, *_MEASURING_ARGS):
            continue
        kinds: Mapping[str, Collection[str]] = {
            "prompts": _PROMPT_ARGS, "decoding": _DECODING_ARGS, "image_settings": _IMAGE_ARGS, "model": _MODEL_ARGS,
        }  # fmt: skip
        yield (next((kind for kind, keys in kinds.items() if key in keys), OTHER), key), value


def _different_prompts(run: Samples, baseline: Samples) -> Iterator[Difference]:
    different = np.flatnonzero(run.prompts != baseline.prompts)
    if not len(different):
        return
    first = int(different[0])
    theirs, ours = (str(logged_prompt(one.read_one(first))) for one in (baseline, run))
    same = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    start = max(0, same - 20)
    key = f"on {len(different)} of {len(run.keys)} questions, first"
    yield Difference("prompts", key, _excerpt(theirs, start), _excerpt(ours, start), len(different))


def _excerpt(prompt: str, start: int) -> str:
    part = prompt[start : start + _SHOWN_PROMPT]
    return repr(f"{'…' if start else ''}{part}{'…' if len(prompt) > start + _SHOWN_PROMPT else ''}")


def _written(value: Any) -> str:
    return _NOT_SET if value in (None, "") else shorten(value)
