"""lmms-eval's tasks in a search: the prompt of a question and the scores of an answer, as its command line has them."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from lmms_steer.errors import UserError
from lmms_steer.harness.tasks import refuse_examples

REASONING_TAGS = '[["<think>", "</think>"], ["<analysis>", "</analysis>"]]'
"""The default of lmms-eval's `--reasoning_tags`."""


def prompt_of(task: Any, doc: Any, number: int) -> str:
    """The prompt of a question: the task's description, and the question.

    Args:
        task: an lmms-eval task.
        doc: its document.
        number: the document's number, for the message.

    Raises:
        UserError: for a task with examples in its prompts, or with several prompts for a question.
    """
    refuse_examples(task)
    prompt = None if getattr(task, "multiple_input", 0) else task.fewshot_context(doc, 0)
    if not isinstance(prompt, str):
        raise UserError(
            f"{task.config.task}, document {number}: its doc_to_text gives no single text: a search asks one prompt for"
            " each question"
        )
    return prompt


def results_of(task: Any, doc: Any, text: str) -> Mapping[str, Any]:
    """What the task's `process_results` makes of an answer that its first filter has read.

    An answer that is asked for several times (`repeats`) is the same every time, because a search generates greedily.

    Args:
        task: an lmms-eval task.
        doc: the question's document.
        text: the generated answer.
    """
    # these import datasets
    from lmms_eval.api.reasoning import parse_reasoning_tags_config, strip_reasoning_tags
    from lmms_eval.filters.transformation import StripThinkingFilter

    tags = parse_reasoning_tags_config(REASONING_TAGS, getattr(task.config, "reasoning_tags", None))
    responses = [[text] * (getattr(task.config, "repeats", 1) or 1)]
    if tags is None and getattr(task.config, "auto_strip_thinking", False):
        responses = StripThinkingFilter().apply(responses, [doc])
    answered = SimpleNamespace(resps=responses[0], filtered_resps={})
    chosen = task._filters[0]
    chosen.apply([answered], [doc])
    filtered = answered.filtered_resps[chosen.name]
    if tags is not None:
        several = isinstance(filtered, list)
        stripped = [
            strip_reasoning_tags(one, tags) if isinstance(one, str) else one
            for one in (filtered if several else [filtered])
        ]
        filtered = stripped if several else stripped[0]
    results: Mapping[str, Any] = task.process_results(doc, [filtered])
    return results
