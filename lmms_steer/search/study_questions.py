"""What a study asks: the tasks of its harness, their questions, and how the answers are scored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lmms_steer.errors import UserError
from lmms_steer.search import required_questions
from lmms_steer.search.harnesses import check_arguments, load
from lmms_steer.search.options import SearchOptions, check_metric, parse_layers, parse_strengths, refuse_test
from lmms_steer.search.plan import LM_EVAL, LMMS_EVAL, MIN_QUESTIONS
from lmms_steer.vectors.local_checkpoints import number_of_layers

if TYPE_CHECKING:
    from lmms_steer.search.questions import Question


@dataclass(frozen=True, slots=True)
class StudyQuestions:
    """The tasks of a study and their questions.

    Attributes:
        task, confirmation_task: the harness's tasks; no confirmation is None.
        questions: in the study's order.
        questions_sha256: their hash.
        confirmed_on: number of questions of the confirmation.
        confirmation_questions: some of them, one for each set of answers.
        generates: whether the model generates text in the task.
        score: how answers are scored.
    """

    task: Any
    confirmation_task: Any | None
    questions: "Sequence[Question]"
    questions_sha256: str
    confirmed_on: int
    confirmation_questions: "Sequence[Question]"
    generates: bool
    score: str


def load_study_questions(options: SearchOptions) -> StudyQuestions:
    """Load the tasks and their questions.

    Raises:
        UserError: for a task or questions that cannot be searched.
    """
    from lmms_steer.search.confirmation import check_confirmation_task
    from lmms_steer.search.questions import image_clusters, load_questions, questions_sha256, shuffle_by_image

    task, split = load(options, options.task, options.split)
    held_out = "(--split validation, or another that it has)" if options.harness == LM_EVAL else "(…_select)"
    refuse_test(options.task, split, options.allow_test, held_out)
    confirmation_task = load(options, options.confirm)[0] if options.confirm else None
    generates = task.config.output_type == "generate_until"
    choosing = "likelihood" if options.harness == LM_EVAL else "letters"
    score = ("generate" if generates else choosing) if options.score == "auto" else options.score
    require_answer_set = score == "letters" or options.chosen_strategy.needs_answer_set
    # strategies look at the first questions first, so those should be like the rest
    questions = shuffle_by_image(list(load_questions(task, options.limit, require_answer_set)), options.seed)
    if len(questions) < MIN_QUESTIONS:
        raise UserError(f"{options.task} has {len(questions)} questions: a search needs at least {MIN_QUESTIONS}")
    known = required_questions.context_of(grid(options), len(questions), image_clusters(questions))
    required_questions.check_questions(options.chosen_strategy, known, "the search" if options.limit else options.task)
    confirmed_on, others = (
        check_confirmation_task(confirmation_task, questions, score) if confirmation_task is not None else (0, [])
    )
    if options.harness == LMMS_EVAL and (score == "generate" or options.metric is not None):
        for one in filter(None, (task, confirmation_task)):
            check_metric(options.metric, one.config.task, one.config.metric_list)
        if score == "letters":
            raise UserError(f"--metric {options.metric}: in {options.task} the likeliest letter counts: leave it out")
    sha256 = questions_sha256(questions)
    return StudyQuestions(task, confirmation_task, questions, sha256, confirmed_on, others, generates, score)


def grid(options: SearchOptions) -> tuple[int, int, int]:
    """How many layers, alphas and token targets are searched; one layer where the model's are not known yet."""
    pretrained = check_arguments(options)
    layers = len(parse_layers(options.layers)) if options.layers else number_of_layers(pretrained or "") or 1
    return layers, len(parse_strengths(options.alphas)), len(options.targets)
