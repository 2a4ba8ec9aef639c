"""BLINK's validation split. (The answers of the test split are not public.)"""

from typing import Any

from lmms_steer.data.source import task_attribute
from lmms_steer.scoring.task_results import (
    doc_to_choice,
    doc_to_index,
    doc_to_target,
    doc_to_text,
    first_paragraph,
    process_losses,
    score_choice,
)

HUB = "BLINK-Benchmark/BLINK"


def __getattr__(name: str) -> Any:
    """`path_CONFIG`, `name_CONFIG` and `kwargs_CONFIG`, with `__` for the hyphen in a configuration's name."""
    return task_attribute("blink", "val", HUB, name.replace("__", "-"))


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    whole = results[0]
    return score_choice(first_paragraph(whole), doc["choices"], doc_to_target(doc), benchmark="BLINK", whole=whole)


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    """One to four images."""
    images = (doc[f"image_{number}"] for number in range(1, 5))
    return [image.convert("RGB") for image in images if image is not None]
