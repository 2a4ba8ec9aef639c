"""Prompts and scoring of the tiny world's tasks. The tiny model answers in words, not in letters."""

from typing import Any

from lmms_steer.tiny_world.question_sets import with_images

process_docs = with_images


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    return [doc["image"].convert("RGB")]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    return f"{(lmms_eval_specific_kwargs or {}).get('pre_prompt', '')}{doc['question']}"


def doc_to_target(doc: dict[str, Any]) -> str:
    return doc["answer"].strip("()")


def doc_to_index(doc: dict[str, Any]) -> int:
    return "ABCDEF".index(doc_to_target(doc))


def doc_to_choice(doc: dict[str, Any]) -> list[str]:
    return doc["choices"]


def parse(answer: str, choices: list[str]) -> str:
    """The letter of the choice that an answer names, by its text or its letter; empty where it names none."""
    text = answer.strip().lower().removesuffix(".").strip()
    letters = "ABCDEF"[: len(choices)]
    if text in choices:
        return letters[choices.index(text)]
    letter = text.strip("()").upper()
    return letter if len(letter) == 1 and letter in letters else ""


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    parsed = parse(results[0], doc["choices"])
    right = float(parsed == doc_to_target(doc))
    return {"acc": right, "score": right, "unparsed": float(not parsed), "parsed": parsed}
