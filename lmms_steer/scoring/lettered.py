"""What tasks share whose rows are CV-Bench's and BLINK's: a prompt with lettered choices, the answer as `(B)`."""

from typing import Any

from lmms_steer.scoring.choice import LETTERS
from lmms_steer.scoring.results import of_choice, of_losses


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """The prompt as it is stored, behind the model's own opening."""
    return f"{(lmms_eval_specific_kwargs or {}).get('pre_prompt', '')}{doc['prompt']}"


def doc_to_target(doc: dict[str, Any]) -> str:
    """The right letter."""
    return str(doc["answer"]).strip("()")


def doc_to_choice(doc: dict[str, Any]) -> list[str]:
    """The letters that there are."""
    return list(LETTERS[: len(doc["choices"])])


def doc_to_index(doc: dict[str, Any]) -> int:
    """The place of the right letter."""
    return LETTERS.index(doc_to_target(doc))


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """A generated answer (`results.of_choice`)."""
    return of_choice(results[0], doc["choices"], doc_to_target(doc))


def process_losses(doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
    """The letters' log-likelihoods (`results.of_losses`)."""
    return of_losses(results, doc_to_index(doc))
