"""What tasks share whose rows are CV-Bench's and BLINK's: lettered choices, the answer as `(B)`."""

from typing import Any

from lmms_steer.scoring.choice import LETTERS
from lmms_steer.scoring.results import of_choice, of_losses


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """The prompt as it is stored, else question and choices in CV-Bench's words; behind the model's own opening."""
    prompt = doc["prompt"] if "prompt" in doc else _prompt(doc)
    return f"{(lmms_eval_specific_kwargs or {}).get('pre_prompt', '')}{prompt}"


def _prompt(doc: dict[str, Any]) -> str:
    listed = "\n".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, doc["choices"], strict=False))
    return f"{doc['question']} Select from the following choices.\n{listed}"


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
