"""Before a search that is to be confirmed: whether the other task can be scored alike, and asks other questions."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lmms_steer.errors import UserError
from lmms_steer.search.alike import names_of
from lmms_steer.search.asked import Asked, questions
from lmms_steer.search.options import FEWEST


def check(task: Any, asked: Sequence[Asked], score: str) -> list[Asked]:
    """
    Args:
        task: of lmms-eval, to confirm a choice on.
        asked: the questions that the choice is made on.
        score: letters or generate.

    Returns:
        a question, without what it shows, of each set of answers: what a model may be unable to tell apart.

    Raises:
        UserError: for a task that cannot be scored so, has too few questions, or asks some of those.
    """
    name = str(task.config.task)
    if score == "generate" and task.config.output_type != "generate_until":
        raise UserError(
            f"--confirm {name} is {task.config.output_type}: this search lets the model write: confirm it on a task of"
            " generate_until"
        )
    known = {one for question in asked for one in names_of(question)}
    count, shared, sets = 0, 0, dict[tuple[str, ...], Asked]()
    for question in questions(task, None, fixed=score == "letters"):
        count += 1
        shared += not known.isdisjoint(names_of(question))
        sets.setdefault(question.answers, replace(question, visuals=[], doc=None))
    if shared:
        raise UserError(
            f"--confirm {name}: {shared} of its {count} questions are among those that the choice is made on: confirm"
            " it on others"
        )
    if count < FEWEST:
        raise UserError(f"--confirm {name} has {count} questions: {FEWEST} at least are needed")
    return list(sets.values())
