"""lm-eval's tasks in a search: its own requests, its own encoding, and its own filters and scores for each question."""

import math
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

from lm_eval.utils import hash_string

from lmms_steer.errors import UserError
from lmms_steer.search.lm_eval_scorers import LikelihoodScorer, TextScorer
from lmms_steer.search.questions import OtherTask, PreparedBatch, Question


class LmEvalTask(OtherTask):
    """A task of lm-eval.

    Args:
        task: from `lmms_steer.harness.lm_eval_tasks.load_lm_eval_task`.
        metric: the score that the search counts; None for the first one in the task's list.

    Attributes:
        config: the task's.
        generates: whether the model generates text; otherwise log-likelihoods are scored.

    Raises:
        UserError: for a metric that is better if it is smaller.
    """

    def __init__(self, task: Any, metric: str | None = None) -> None:
        self.task, self.config = task, task.config
        self.generates = task.config.output_type == "generate_until"
        listed = [str(entry["metric"]) for entry in task.config.metric_list or []]
        self.metric = metric or (listed[0] if listed else "acc")
        self._filter = task._filters[0]
        if task.higher_is_better().get(self.metric) is False:
            raise UserError(f"{task.config.task}: a smaller {self.metric} is better; {self._name_another(listed)}")

    def questions(self, limit: int | None, require_answer_set: bool) -> Iterator[Question]:
        """Read the task's first questions, as lm-eval asks them.

        Args:
            limit: read the first questions only; None reads all.
            require_answer_set: whether every question must have choices, for strategies that compare them.

        Raises:
            UserError: for a question without choices, where it must have some.
        """
        self.task.build_all_requests(limit=limit)
        by_document: dict[int, list[Any]] = {}
        for request in self.task.instances:
            by_document.setdefault(int(request.doc_id), []).append(request)
        for number, requests in by_document.items():
            requests.sort(key=lambda request: request.idx)
            choices, right = self._choices(requests)
            if require_answer_set and right is None:
                raise UserError(
                    f"{self.config.task}, document {number}: it has no choices with one right answer, which the screen"
                    " needs: take another --strategy"
                )
            context = str(requests[0].args[0])
            yield Question(
                doc_id=number,
                text=context,
                visuals=[],
                answers=choices,
                right=right or 0,
                doc=requests[0].doc,
                requests=tuple(requests),
                logged=hash_string(context),
            )

    def prepare(self, lm: Any, batch: Sequence[Question]) -> PreparedBatch:
        """Make a batch of questions for lm-eval's model."""
        if self.generates:
            text_scorer = TextScorer(lm, self, batch)
            return PreparedBatch(text_scorer.inputs, text_scorer)
        scorer = LikelihoodScorer(lm, self, batch)
        return PreparedBatch(scorer.inputs, scorer, scorer.scored, scorer.question_of)

    def score(self, question: Question, responses: Sequence[Any]) -> float:
        """The score of a question by the task's own filter and metric.

        Args:
            question: one of the task's.
            responses: one for each of its requests: a text, or a log-likelihood and whether it is the greedy answer.

        Raises:
            UserError: for a metric that is not a number from 0 to 1 for a single question.
        """
        answered = [copy(request) for request in question.requests]
        for request, response in zip(answered, responses, strict=True):
            request.resps, request.filtered_resps = [response], {}
        self._filter.apply(answered)
        results = self.task.process_results(
            question.doc, [request.filtered_resps[self._filter.name] for request in answered]
        )
        value = results.get(self.metric)
        if not _is_score(value):
            usable = [name for name, other in results.items() if _is_score(other)]
            raise UserError(
                f"{self.config.task}: its metric {self.metric} is not a number from 0 to 1 for a single question;"
                f" {self._name_another(usable)}"
            )
        return float(value)

    def _choices(self, requests: Sequence[Any]) -> tuple[tuple[str, ...], int | None]:
        """The choices as text, and the place of the right one; None without a single right one."""
        if self.config.output_type != "multiple_choice":
            return (), None
        doc = requests[0].doc
        choices = list(self.task.doc_to_choice(doc))
        # those after the choices' own are for mutual information
        own = requests[: len(choices)]
        same_context = len({request.args[0] for request in own}) == 1
        texts = tuple(str(request.args[1]) if same_context else "".join(request.args[:2]) for request in own)
        target = self.task.doc_to_text(doc) if self.task.multiple_input else self.task.doc_to_target(doc)
        if isinstance(target, str) and target in choices:
            target = choices.index(target)
        return texts, target if isinstance(target, int) and 0 <= target < len(choices) else None

    def _name_another(self, usable: Sequence[str]) -> str:
        others = [name for name in usable if name != self.metric]
        return f"choose another with --metric ({', '.join(others)})" if others else "it cannot be searched on"


def _is_score(value: Any) -> bool:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return False
    return not math.isnan(number) and 0 <= number <= 1
