"""What the shipped tasks' `utils.py` share: a document's image and its prompt.

lmms-eval calls these functions with one document (a row of the dataset) at a time.
"""

from typing import Any


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    """The one image of a document, in RGB."""
    return [doc["image"].convert("RGB")]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """The question, after the model's `pre_prompt`."""
    return with_pre_prompt(doc["question"], lmms_eval_specific_kwargs)


def with_pre_prompt(text: str, lmms_eval_specific_kwargs: dict[str, Any] | None) -> str:
    """A prompt after the `pre_prompt` of the task file's `lmms_eval_specific_kwargs`, if there is one."""
    return f"{(lmms_eval_specific_kwargs or {}).get('pre_prompt', '')}{text}"
