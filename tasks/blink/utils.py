"""BLINK's validation split; the test split's answers are not public."""

from typing import Any

from lmms_steer.data.source import task_attribute
from lmms_steer.scoring.task_results import (
    doc_to_choice,
    doc_to_index,
    doc_to_target,
    doc_to_text,
    process_losses,
    process_results,
)

HUB = "BLINK-Benchmark/BLINK"


def __getattr__(name: str) -> Any:
    """`path_CONFIG`, `name_CONFIG`, `kwargs_CONFIG`; `__` stands for the hyphen of a configuration's name."""
    return task_attribute("blink", "val", HUB, name.replace("__", "-"))


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    pictures = (doc[f"image_{number}"] for number in range(1, 5))
    return [picture.convert("RGB") for picture in pictures if picture is not None]
