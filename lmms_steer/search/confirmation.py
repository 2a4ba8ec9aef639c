"""Check that a choice can be confirmed on another task: scored in the same way, on other questions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lmms_steer._util.hashing import question_id, stable_hash
from lmms_steer.errors import UserError
from lmms_steer.search.plan import MIN_QUESTIONS
from lmms_steer.search.questions import Question, load_questions


def check_confirmation_task(task: Any, questions: Sequence[Question], score: str) -> tuple[int, list[Question]]:
    """Check a task before anything is measured.

    Args:
        task: the lmms-eval task to confirm a choice on.
        questions: the questions that the choice is made on.
        score: `letters` or `generate`.

    Returns:
        the number of its questions; and one question, without its visuals, for each set of answers: enough to check
        whether the model can tell the answers apart by their first tokens.

    Raises:
        UserError: for a task that cannot be scored in this way, has too few questions, or repeats some of `questions`.
    """
    name = str(task.config.task)
    generates = task.config.output_type == "generate_until"
    if score == "generate" and not generates:
        raise UserError(
            f"--confirm {name} is {task.config.output_type}: this search lets the model generate text, so confirm it on"
            " a task of generate_until"
        )
    if score == "likelihood" and generates:
        raise UserError(
            f"--confirm {name} is generate_until: this search scores likelihoods, so confirm it on a task that does"
        )
    known = {one for question in questions for one in question_ids(question)}
    count, shared, answer_sets = 0, 0, dict[tuple[str, ...], Question]()
    for question in load_questions(task, None, require_answer_set=score == "letters"):
        count += 1
        shared += not known.isdisjoint(question_ids(question))
        answer_sets.setdefault(question.answers, replace(question, visuals=[], doc=None))
    if shared:
        raise UserError(
            f"--confirm {name}: {shared} of its {count} questions are among those that the choice is made on: confirm"
            " it on others"
        )
    if count < MIN_QUESTIONS:
        raise UserError(f"--confirm {name} has {count} questions: it needs at least {MIN_QUESTIONS}")
    return count, list(answer_sets.values())


def question_ids(question: Question) -> set[str]:
    """Ids that recognise a question in another task.

    One id is of its images and prompt, one of its images and document: another prompt leaves the document as it is, and
    another file of the same questions may number its documents differently.
    """
    parts = (question.logged or question.text, _without_images(question.doc))
    return {question_id(stable_hash(part), question.image) for part in parts}


def _without_images(value: Any) -> Any:
    """The text and numbers of a document."""
    if isinstance(value, Mapping):
        return {str(key): _without_images(one) for key, one in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, list | tuple):
        return [_without_images(one) for one in value]
    return value if isinstance(value, str | int | float) else None
