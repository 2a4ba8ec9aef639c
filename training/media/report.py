"""Measure the trained models on videos and sounds that they have not seen."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForMultimodalLM, AutoProcessor

from lmms_steer.models.media import Audio
from lmms_steer.models.prompts import prompt_format_for
from lmms_steer.tiny_world.moving import COLOUR, WAY, Moving, sample_moving
from lmms_steer.tiny_world.sounds import NUMBER, PITCH, RATE, Tones, sample_tones

SEED = 10_000
"""Far from the seeds of the training."""


def measure(root: Path, items: int) -> dict[str, float]:
    """Question and style ▸ the share of right answers; also with the media of other questions.

    Args:
        root: the folder of the checkpoints.
        items: questions of each kind.
    """
    found: dict[str, float] = {}
    for name, questions, draw in (
        ("tiny-qwen2-vl", {"way": WAY, "colour": COLOUR}, sample_moving),
        ("tiny-qwen2-audio", {"pitch": PITCH, "number": NUMBER}, sample_tones),
    ):
        model = AutoModelForMultimodalLM.from_pretrained(root / name, dtype=torch.float32).eval()
        processor = AutoProcessor.from_pretrained(root / name)
        for style in ("plain", "hard"):
            rng = random.Random(SEED)
            shown = [draw(rng, style) for _ in range(items)]
            for short, question in questions.items():
                found[f"{short}, {style}"] = _share(model, processor, question, shown, shown)
            others = [*shown[1:], shown[0]]
            found[f"{short}, {style}, others' media"] = _share(model, processor, question, others, shown)
    return found


def visual_of(one: Moving | Tones) -> Any:
    """What a prompt format takes."""
    return one.images() if isinstance(one, Moving) else Audio(one.render(), RATE)


@torch.inference_mode()
def _share(model: Any, processor: Any, question: str, shown: list[Any], asked: list[Any]) -> float:
    make: Callable[..., Any] = prompt_format_for(processor)
    right = 0
    for start in range(0, len(shown), 50):
        part = slice(start, start + 50)
        visuals = [[visual_of(one)] for one in shown[part]]
        answers = model(**make(processor, [question] * len(visuals), visuals)).logits[:, -1].argmax(-1)
        words = processor.tokenizer.batch_decode(answers[:, None])
        right += sum(word.strip() == one.answer(question) for word, one in zip(words, asked[part], strict=True))
    return round(right / len(shown), 3)
