"""The number of answers that a search will compute, by the strategy that runs."""

from functools import cache
from itertools import product

from lmms_steer.recipes.layout import cells_searched
from lmms_steer.recipes.schema import Method, Model, Search
from lmms_steer.search.options import parse_alphas, parse_layers, parse_targets
from lmms_steer.search.plan import Cell
from lmms_steer.search.strategies import StrategyContext, parse_strategy

MAX_CELLS_COUNTED = 100_000
"""A strategy counts its answers from the cells, of which there may not be too many."""


def search_answers(model: Model, search: Search, settings: Method, questions: int) -> int | None:
    """The largest number of answers, one cell and one question each; None where it is not known.

    Args:
        model, search, settings: of the recipe. The layers must be listed.
        questions: number of questions.
    """
    cells = cells_searched(model, settings.alphas, search.tokens, settings.controls)
    if search.strategy in (None, "grid") or not cells:
        return cells * questions or None
    if cells > MAX_CELLS_COUNTED:
        return None
    return _by_strategy(search.strategy, model.layers, settings.alphas, search.tokens, 1 + settings.controls, questions)


@cache
def _by_strategy(strategy: str, layers: str, alphas: str, tokens: str, vectors: int, questions: int) -> int:
    # hundreds of searches of a recipe have the same size
    grid = (parse_layers(layers), parse_alphas(alphas), parse_targets(tokens))
    names = tuple(map(str, range(vectors)))
    cells = [Cell(*cell) for cell in product(names, *grid)]
    context = StrategyContext(cells, questions, vectors=names, layers=grid[0], alphas=grid[1], tokens=grid[2])
    return parse_strategy(strategy).planned_answers(context)
