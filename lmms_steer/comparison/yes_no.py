"""How often a model says yes: a gain on questions of yes or no may be a push towards one of them.

lmms-eval's `pope_yes_ratio` counts the labels, not the answers.
"""

from collections.abc import Mapping
from typing import Any

from lmms_steer.scoring.choice import choice_text
from lmms_steer.scoring.yes_no import says_yes


def logged_yes(sample: Mapping[str, Any]) -> tuple[float, float]:
    """Whether a logged sample's label and answer are yes, by `says_yes`.

    Of a question with choices, the letter that the task read counts, by the text behind it.
    """
    choices, target = sample.get("choices"), str(sample.get("target"))
    if isinstance(choices, list) and "parsed" in sample:
        texts = [str(one) for one in choices]
        label, answer = choice_text(target, texts), choice_text(str(sample["parsed"]), texts)
        return says_yes(label, whole=True), says_yes(answer)
    return says_yes(target, whole=True), says_yes(answer_text(sample))


def answer_text(sample: Mapping[str, Any]) -> Any:
    """The answer of a logged sample, as the harness filtered it: text, or numbers of a log-likelihood."""
    answer = sample.get("filtered_resps", "")
    while isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    return answer


def is_empty(sample: Mapping[str, Any]) -> bool:
    """Whether a logged sample's answer is a text with nothing in it."""
    answer = answer_text(sample)
    return isinstance(answer, str) and not answer.strip()
