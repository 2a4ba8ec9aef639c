"""BLINK's validation split; the test split's answers are not public."""

from typing import Any

from lmms_steer.data.source import attributes
from lmms_steer.scoring.results import of_choice, of_losses

HUB = "BLINK-Benchmark/BLINK"


def __getattr__(name: str) -> Any:
    """`path_CONFIG`, `name_CONFIG`, `kwargs_CONFIG`; `__` stands for the hyphen of a configuration's name."""
    return attributes("blink", "val", HUB, name.replace("__", "-"))


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    pictures = (doc[f"image_{number}"] for number in range(1, 5))
    return [picture.convert("RGB") for picture in pictures if picture is not None]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    return f"{(lmms_eval_specific_kwargs or {}).get('pre_prompt', '')}{doc['prompt']}"


def doc_to_target(doc: dict[str, Any]) -> str:
    return doc["answer"].strip("()")


def doc_to_choice(doc: dict[str, Any]) -> list[str]:
    return list("ABCDEF"[: len(doc["choices"])])


def doc_to_index(doc: dict[str, Any]) -> int:
    return "ABCDEF".index(doc_to_target(doc))


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    return of_choice(results[0], doc["choices"], doc_to_target(doc))


def process_losses(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    return of_losses(results, doc_to_index(doc))
