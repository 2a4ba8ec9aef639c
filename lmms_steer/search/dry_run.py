"""`lmms-steer search --dry-run`: what a search would measure and could find."""

from collections.abc import Generator
from dataclasses import replace
from typing import Any

from lmms_steer._util.formatting import count_noun
from lmms_steer.errors import UserError
from lmms_steer.harness.arguments import split_args
from lmms_steer.search import budgets
from lmms_steer.search.before_loading import check_before_imports, facts_on_disk, planned_options
from lmms_steer.search.harnesses import check_arguments
from lmms_steer.search.ignored import ignored_lines
from lmms_steer.search.options import SearchOptions, parse_layers, parse_strengths
from lmms_steer.search.plan import BUDGET_PROMPTS, Plan
from lmms_steer.search.resolved_cells import layers_at
from lmms_steer.search.study_questions import StudyQuestions, load_study_questions


def dry_run(options: SearchOptions) -> Generator[str, None, None]:
    """Say what a search would measure and could find. Nothing is written, and no weights are loaded."""
    from lmms_steer.search.power import planned_power_lines
    from lmms_steer.search.questions import image_clusters
    from lmms_steer.search.strategies import StrategyContext

    check_before_imports(options)
    pretrained = check_arguments(options)
    if pretrained is None:
        raise UserError("--dry-run needs pretrained=NAME in --model_args, for the number of layers")
    n_layers = layers_at(options.fixed_keys, facts_on_disk(pretrained))
    layers = parse_layers(options.layers, n_layers) if options.layers else tuple(range(n_layers))
    loaded = load_study_questions(options)
    n = len(loaded.questions)
    questions: dict[str, Any] = {"n": n, "questions": loaded.questions_sha256, "score": loaded.score}
    plan = Plan(**planned_options(options), vectors=dict.fromkeys(options.names, ""), layers=layers, **questions)
    cells = plan.cells(options.fixed_keys.last_useless_for_images(n_layers))
    context = StrategyContext.of(plan, cells, image_clusters(loaded.questions))
    if not context.cells:
        raise UserError("the grid is empty: steering image tokens of the last layer cannot change an answer")
    chosen = options.chosen_strategy
    yield chosen.strategy.summary(chosen.after_filter(context))
    answers = chosen.planned_answers(context)
    yield f"at most {answers} answers of {plan.task}, one cell and one question each"
    if passes := chosen.filter_passes(context):
        yield f"before that, the filter of {plan.strategy} makes {passes} forward passes of a question"
    if plan.budgets:
        resolved = chosen.resolved_cells(context.cells)
        places = count_noun(len({replace(cell, alpha=0.0) for cell in resolved}), "alpha")
        prompts = min(plan.n, BUDGET_PROMPTS)
        about = budgets.planned_answers(resolved, parse_strengths(options.alphas), plan.n)
        yield (
            f"before that, {places} for each budget must be found on the first {prompts} questions, whose right answers"
            f" are not read: about {about} answers"
        )
    yield from _lines_about_choices(options, loaded)
    yield from planned_power_lines(options.chosen_strategy, context)
    yield from ignored_lines(options, n)
    yield "nothing was measured (--dry-run)"


def _lines_about_choices(options: SearchOptions, loaded: StudyQuestions) -> Generator[str, None, None]:
    """What is measured of the chosen cells alone, after the search."""
    shown = any(question.visuals for question in loaded.questions)
    if shown and options.blank_image and "image" not in split_args(options.model_args, "--model_args"):
        choices = count_noun(len(options.vectors), "choice")
        answers = len(options.vectors) * len(loaded.questions)
        yield f"after that, {choices} with every image grey (--no-blank-image leaves this out): {answers} answers"
    if options.confirm:
        choices = count_noun(len(options.names), "choice")
        answers = len(options.names) * loaded.confirmed_on
        limit = ", --limit or not" if options.limit else ""
        yield (
            f"after that, {choices}, those of controls too, on all {loaded.confirmed_on} questions of"
            f" {options.confirm}{limit}: {answers} answers"
        )
