"""Budget: rank the layers by a score, keep a few, and search only strengths that do a known damage there.

The score (`lmms_steer.search.layer_scores`) is computed before the KL budgets are resolved, so that alphas are looked
for at the kept layers only. Random vectors are ranked and resolved in the same way as the user's.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from lmms_steer.errors import UserError
from lmms_steer.search.chosen_strategy import parse_strategy
from lmms_steer.search.layer_scores import ConceptSentences, LayerContext, LayerScore, layer_scores
from lmms_steer.search.plan import BUDGET_PROMPTS, Cell, split_control
from lmms_steer.search.required_questions import SOUGHT_GAIN, finding_probability, questions_needed
from lmms_steer.search.stored_numbers import stored_numbers
from lmms_steer.search.strategies import FilterContext, SearchStrategy, Strategy, StrategyContext, register_strategy
from lmms_steer.search.strategies.grid import grid
from lmms_steer.search.strategies.race import keeps as race_keeps
from lmms_steer.search.strategies.race import planned_answers as raced_answers
from lmms_steer.search.strategies.race import race
from lmms_steer.statistics.power import POWER

DEFAULT_SCORE = "patching"
"""The score that ranks the layers if the user names none."""
KEPT_LAYERS = 3
"""So many layers are kept for each vector and token target, but not more than half of them."""
DEFAULT_BUDGETS = "kl:0.03,kl:0.1,kl:0.3,kl:1"
"""From hardly a change to a clear one, half a decade apart. In `benchmarks/choosing.py` budgets
up to 0.3 find 4.4 points less of planted gains than with 1 among them."""

Place = tuple[str, str]
"""A vector and a token target."""


def kept_cells(cells: Sequence[Cell], scores: Sequence[float]) -> list[Cell]:
    """The cells at the best layers of each vector and token target.

    Args:
        cells: the grid.
        scores: of each cell's layer, for its vector and target.
    """
    of_place: dict[Place, dict[int, float]] = {}
    for cell, score in zip(cells, scores, strict=True):
        of_place.setdefault((cell.vector, cell.tokens), {})[cell.layer] = score
    kept = {place: best_layers(by_layer) for place, by_layer in of_place.items()}
    return [cell for cell in cells if cell.layer in kept[cell.vector, cell.tokens]]


def best_layers(scores: dict[int, float]) -> list[int]:
    """The layers with the largest scores; among equal ones, evenly spread from the first to the last."""
    room, kept = max(1, min(KEPT_LAYERS, len(scores) // 2)), list[int]()
    for value in sorted(set(scores.values()), reverse=True):
        equal = sorted(layer for layer, score in scores.items() if score == value)
        left = min(room - len(kept), len(equal))
        step = (len(equal) - 1) / max(1, left - 1)
        kept += [equal[round(i * step)] for i in range(left)]
    return kept


def keep_best_layers(context: FilterContext, score: str) -> list[Cell]:
    """The filter. The study's folder stores the scores of all cells' layers, in `layers.json`."""
    compute = partial(_scores_of_cells, context, layer_scores.get(score))
    return kept_cells(context.cells, stored_numbers(context.folder / "layers.json", len(context.cells), compute))


def _scores_of_cells(context: FilterContext, score: LayerScore) -> list[float]:
    found: dict[tuple[str | None, ...], dict[int, float]] = {}
    sentences: dict[str, ConceptSentences] = {}
    layers = sorted({cell.layer for cell in context.cells})
    values = []
    for cell in context.cells:
        own, key = split_control(cell.vector)[0], _key(cell, score)
        if key not in found:
            # a control is ranked by its own direction among its vector's sentences
            sentences.setdefault(own, ConceptSentences(context.lm, context.vectors[own], None, context.batch_size))
            asked = context.questions[:BUDGET_PROMPTS]
            try:
                found[key] = score(
                    LayerContext(
                        context.lm, context.vectors[cell.vector], layers, cell.tokens, sentences[own], asked,
                        context.batch_size, context.seed, context.task,
                    )
                )  # fmt: skip
            except UserError as error:
                raise UserError(
                    f"the layers cannot be ranked by {score.name}: {error}; rank them by another score, as in"
                    f" --strategy budget:{next(name for name in layer_scores.names() if name != score.name)}"
                ) from error
        values.append(found[key][cell.layer])
    return values


def _key(cell: Cell, score: LayerScore) -> tuple[str | None, ...]:
    """What the score of a cell's layer depends on: cells with equal ones are scored together."""
    vector = cell.vector if "vector" in score.depends_on else None
    return split_control(cell.vector)[0], vector, cell.tokens if "tokens" in score.depends_on else None


def filter_passes(cells: Sequence[Cell], n: int, score: str) -> int:
    """How many full forward passes of a question it takes to rank the layers.

    Args:
        cells: the grid.
        n: number of questions, of which the first are read.
        score: name of the score.
    """
    entry = layer_scores.get(score)
    times, layers = len({_key(cell, entry) for cell in cells}), len({cell.layer for cell in cells})
    return times * min(n, BUDGET_PROMPTS) * entry.passes(layers)


def ranked_by(entry: SearchStrategy, score: str) -> SearchStrategy:
    """The strategy with another score.

    Raises:
        UserError: for an unknown score.
    """
    reads_answers = layer_scores.get(score).needs == "answers"
    return replace(
        entry,
        filter=partial(keep_best_layers, score=score),
        filter_passes=partial(filter_passes, score=score),
        needs_answer_set=reads_answers,
        questions_spent=(lambda n: min(n, BUDGET_PROMPTS)) if reads_answers else entry.questions_spent,
    )


def is_raced(search: StrategyContext) -> bool:
    """Whether there are enough questions for a race of the kept cells (`lmms_steer.search.required_questions`)."""
    return finding_probability(parse_strategy("race"), search, SOUGHT_GAIN) >= POWER


def keeps(search: StrategyContext, gain: float, discordant: float) -> float:
    """The probability that a cell with a gain, at a kept layer, is measured on all questions."""
    return race_keeps(search, gain, discordant) if is_raced(search) else 1.0


def planned_answers(search: StrategyContext) -> int:
    """The largest number of answers that are asked for, one cell and one question each."""
    return raced_answers(search) if is_raced(search) else len(search.cells) * search.n


def summary(search: StrategyContext) -> str:
    """The line that is printed when the kept cells are searched."""
    how = "racing over" if is_raced(search) else "all on"
    needed = questions_needed(parse_strategy("race"), search)
    found = f"{len(search.cells)} cells at the layers that rank first, {how} {search.n} questions"
    return f"{found} (a race of them needs {needed:.0f})"


@register_strategy(
    "budget",
    description="rank layers by a score (budget:SCORE), keep three, and race their KL budgets",
    planned_answers=planned_answers,
    summary=summary,
    filter=partial(keep_best_layers, score=DEFAULT_SCORE),
    filter_passes=partial(filter_passes, score=DEFAULT_SCORE),
    keeps=keeps,
    drops_targets=True,
    # the number does not depend on the scores
    kept_cells=lambda cells: kept_cells(cells, [0.0] * len(cells)),
    default_alphas=DEFAULT_BUDGETS,
    filters_places=True,
    configure=ranked_by,
)
def budget(search: StrategyContext) -> Strategy:
    """Race the kept cells, or measure all of them on all questions where these are too few for a race."""
    yield from (race if is_raced(search) else grid)(search)
