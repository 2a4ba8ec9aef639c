"""The tiny world's tasks. The tiny model answers in words, not in letters, so the scoring is its own."""

from typing import Any

from lmms_steer.data.documents import doc_to_text, doc_to_visual
from lmms_steer.scoring.choice import LETTERS
from lmms_steer.scoring.task_results import doc_to_index, doc_to_target
from lmms_steer.tiny_world.cv_bench_rows import with_images

process_docs = with_images


def doc_to_choice(doc: dict[str, Any]) -> list[str]:
    return list(doc["choices"])


def parse(answer: str, choices: list[str]) -> str:
    """The letter of the choice that an answer gives, by its text or its letter; empty if it gives none."""
    text = answer.strip().lower().removesuffix(".").strip()
    letters = LETTERS[: len(choices)]
    if text in choices:
        return letters[choices.index(text)]
    letter = text.strip("()").upper()
    return letter if len(letter) == 1 and letter in letters else ""


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    parsed = parse(results[0], doc["choices"])
    correct = float(parsed == doc_to_target(doc))
    return {"acc": correct, "score": correct, "unparsed": float(not parsed), "parsed": parsed}
