"""Find rows of a multiple-choice benchmark that cannot be scored, before a model answers them."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmms_steer.errors import UserError, shorten
from lmms_steer.scoring import task_results
from lmms_steer.scoring.choice import LETTERS

_NEEDS_ROWS = (
    *(task_results.doc_to_target, task_results.doc_to_index),
    *(task_results.process_results, task_results.process_results_strict, task_results.process_losses),
)
"""Functions of a task that read the columns `choices` and `answer`."""


def reads_prompt(doc_to_text: Any) -> bool:
    """Whether a task's `doc_to_text` needs the column `prompt` or `question`."""
    return doc_to_text is task_results.doc_to_text


def reads_choices(*functions: Any) -> bool:
    """Whether a task that names these functions needs rows that `check_rows` accepts."""
    return any(function in _NEEDS_ROWS for function in functions if callable(function))


def check_rows(task: str, docs: Any, prompted: bool = False) -> None:
    """Check all rows of a benchmark.

    Args:
        task: its name, for the message.
        docs: a dataset with `column_names` and `select_columns`, or a list of rows.
        prompted: whether their prompts are read, too.

    Raises:
        UserError: for the first row whose choices or answer are malformed, with its number as in the samples' `doc_id`.
    """
    columns = getattr(docs, "column_names", None)
    if columns is not None:
        missing = [name for name in ("choices", "answer") if name not in columns]
        if missing:
            raise UserError(f"{task} has no column {' or '.join(missing)}: its columns are {', '.join(columns)}")
        # the others may hold images, which take long to decode
        docs = docs.select_columns([name for name in ("choices", "answer", "prompt", "question") if name in columns])
    for number, doc in enumerate(docs):
        problem = _problem(doc) or (prompted and _prompt_problem(doc))
        if problem:
            raise UserError(f"{task}, document {number}: {problem}")


def _prompt_problem(doc: Mapping[str, Any]) -> str:
    """Say what is wrong with what a row asks; "" if nothing is."""
    prompt = doc.get("prompt") or doc.get("question")
    if isinstance(prompt, str) and prompt.strip():
        return ""
    return f"the question is {shorten(repr(prompt))}: expected a text"


def _problem(doc: Mapping[str, Any]) -> str:
    """Say what is wrong with a row; "" if nothing is."""
    choices = doc.get("choices")
    if isinstance(choices, str):
        return f"choices are the text {shorten(repr(choices))}: expected a list of 1 to {len(LETTERS)} texts"
    if not isinstance(choices, Sequence) or not choices or len(choices) > len(LETTERS):
        return f"choices are {shorten(choices)}: expected a list of 1 to {len(LETTERS)} texts"
    seen: dict[str, str] = {}
    for letter, choice in zip(LETTERS, choices, strict=False):
        if not isinstance(choice, str):
            return f"choice {letter} is {shorten(choice)}: expected a text"
        text = " ".join(choice.casefold().split())
        if not text:
            return f"choice {letter} is empty"
        if text in seen:
            return f"choices {seen[text]} and {letter} are both {shorten(choice)!r}"
        seen[text] = letter
    letters = LETTERS[: len(choices)]
    target = task_results.doc_to_target({"answer": None, **doc})
    if len(target) != 1 or target not in letters:
        expected = f"{letters[0]} to {letters[-1]}" if len(letters) > 1 else letters
        return f"the answer is {shorten(repr(doc.get('answer')))}, but its choices have the letters {expected}"
    return ""
