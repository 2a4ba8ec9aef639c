"""How many answers a recipe's searches ask for, by the strategy that runs. One answer is one cell on one question."""

from functools import cache
from itertools import product

from lmms_steer.recipes.layout import cells_searched, strengths
from lmms_steer.recipes.schema import Method, Model, Recipe, Study
from lmms_steer.search import budgets
from lmms_steer.search.chosen_strategy import parse_strategy
from lmms_steer.search.options import parse_budgets, parse_layers, parse_strengths, parse_targets
from lmms_steer.search.plan import Cell
from lmms_steer.search.strategies import StrategyContext
from lmms_steer.vectors.local_checkpoints import number_of_layers

MAX_CELLS_COUNTED = 100_000
"""A strategy counts its answers from the cells, of which there may not be too many."""


def searched_questions(recipe: Recipe, study: Study) -> int:
    """How many questions a study's searches have; 0 where the recipe does not say."""
    questions = study.select_questions or 0
    return min(questions, recipe.search_limit or questions)


def search_answers(recipe: Recipe, model: Model, study: Study, settings: Method) -> int | None:
    """The largest number of answers that a search asks for; None where its questions or layers are not known."""
    questions = searched_questions(recipe, study)
    if not questions or not model.layers:
        return None
    search, alphas = recipe.search, strengths(recipe, settings)
    if search.strategy in (None, "grid"):
        return cells_searched(model, alphas, search.tokens, settings.controls) * questions
    if cells_searched(model, alphas, search.tokens, settings.controls) > MAX_CELLS_COUNTED:
        return None
    return _planned(search.strategy, model.layers, alphas, search.tokens, settings.controls, questions)


def budget_answers(recipe: Recipe, model: Model, study: Study, settings: Method) -> int:
    """About how many answers it takes to find the alphas of a search's KL budgets; 0 without budgets."""
    questions, alphas = searched_questions(recipe, study), strengths(recipe, settings)
    if not parse_budgets(alphas) or not questions or not model.layers:
        return 0
    return _resolved(
        recipe.search.strategy or "grid", model.layers, alphas, recipe.search.tokens, settings.controls, questions
    )


def filter_passes(recipe: Recipe, model: Model, study: Study, settings: Method) -> int:
    """How many full forward passes of a question a search's filter makes: of layer scores, or gradients."""
    questions, search = searched_questions(recipe, study), recipe.search
    if not questions or not model.layers or search.strategy is None:
        return 0
    alphas = strengths(recipe, settings)
    return _filtered(search.strategy, model.layers, alphas, search.tokens, settings.controls, questions)


def search_grid(recipe: Recipe, model: Model, settings: Method) -> tuple[int, int, int]:
    """How many layers, strengths and token targets a search tries; one layer where the recipe does not say which."""
    layers = len(parse_layers(model.layers)) if model.layers else number_of_layers(model.pretrained) or 1
    return layers, len(parse_strengths(strengths(recipe, settings))), len(parse_targets(recipe.search.tokens))


@cache
def _resolved(strategy: str, layers: str, alphas: str, tokens: str, controls: int, questions: int) -> int:
    cells = parse_strategy(strategy).resolved_cells(_context(layers, alphas, tokens, controls, questions).cells)
    return budgets.planned_answers(cells, parse_strengths(alphas), questions)


@cache
def _filtered(strategy: str, layers: str, alphas: str, tokens: str, controls: int, questions: int) -> int:
    return parse_strategy(strategy).filter_passes(_context(layers, alphas, tokens, controls, questions))


@cache
def _planned(strategy: str, layers: str, alphas: str, tokens: str, controls: int, questions: int) -> int:
    return parse_strategy(strategy).planned_answers(_context(layers, alphas, tokens, controls, questions))


def _context(layers: str, alphas: str, tokens: str, controls: int, questions: int) -> StrategyContext:
    vectors = ("v", *(f"v,control=random:{seed}" for seed in range(controls)))
    grid = parse_layers(layers), parse_strengths(alphas), parse_targets(tokens)
    cells = [Cell(*cell) for cell in product(vectors, *grid)]
    return StrategyContext(cells, questions, vectors=vectors, layers=grid[0], alphas=grid[1], tokens=grid[2])
