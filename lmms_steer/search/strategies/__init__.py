"""Search strategies: which cells are measured on which questions, and in what order.

A strategy is a generator. It yields rungs (some cells on some questions) and is sent each rung's scores before it
yields the next. Given the same scores it must yield the same rungs, with all randomness fixed by the seed: that is how
several processes share one study, and how a killed search is resumed. At least one cell of every vector and control has
to be measured on all questions. `register_strategy` adds one:

    @register_strategy("every_other_layer", description="the grid on every other layer")
    def every_other_layer(search: StrategyContext) -> Strategy:
        cells = [cell for cell in search.cells if cell.layer in search.layers[::2]]
        scores, unsteered = yield Rung(cells, range(search.n))

The command line and recipes find the strategies of installed packages, which declare an entry point of the group
`lmms_steer.strategies` (see `lmms_steer.registry`). `SearchOptions` also takes the function itself.

A strategy with a `filter` drops cells before anything is measured. Its name can follow another one's: in `race+screen`
the screen is written last and runs first, and the race is over the cells that it keeps. A strategy that can be
configured takes an argument after a colon, `budget:agreement`. Importing this package or its
built-in strategies imports no torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, TypedDict, Unpack

from lmms_steer.registry import Registry
from lmms_steer.search.plan import Cell, Plan
from lmms_steer.search.questions import Question
from lmms_steer.search.rungs import Rung as Rung  # noqa: PLC0414  strategies import it from here
from lmms_steer.search.rungs import Strategy as Strategy  # noqa: PLC0414  likewise
from lmms_steer.statistics import Ints
from lmms_steer.steering.budget_text import BUDGET
from lmms_steer.vectors.steering_vectors import SteeringVectors

DEFAULT_ALPHAS = "0.1:1.0:0.1"
"""The strengths that most strategies try if the user gives none, as typed: the paper's."""


@dataclass(frozen=True, slots=True)
class StrategyContext:
    """What a strategy is built from.

    Attributes:
        cells: the grid: every combination of vector, layer, alpha and tokens, without those that cannot have an effect.
        n: number of questions. Their order is random, except that questions about one image stand together.
        image_of: the image of each question, numbered from 0; None where no two questions share one.
        seed: seed for everything that the strategy draws.
        trials: number of trials for each vector, for strategies that propose cells themselves.
        vectors: names of the user's vectors and their controls, as cells use them.
        layers, alphas, tokens: the values that the grid was made of.
    """

    cells: Sequence[Cell]
    n: int
    image_of: Ints | None = None
    seed: int = 0
    trials: int = 64
    vectors: Sequence[str] = ()
    layers: Sequence[int] = ()
    alphas: Sequence[float] = ()
    tokens: Sequence[str] = ()

    @classmethod
    def of(cls, plan: Plan, cells: Sequence[Cell], image_of: Ints | None) -> "StrategyContext":
        """What a search's strategy is built from.

        Args:
            plan: the search.
            cells: its grid.
            image_of: as the attribute.
        """
        return cls(
            cells=cells,
            n=plan.n,
            image_of=image_of,
            seed=plan.seed,
            trials=plan.trials,
            vectors=tuple(plan.vectors),
            layers=plan.layers,
            alphas=sorted({cell.alpha for cell in cells}),
            tokens=plan.tokens,
        )

    def restricted_to(self, cells: Sequence[Cell]) -> "StrategyContext":
        """The same search over some of its cells only."""
        layers = [layer for layer in self.layers if any(cell.layer == layer for cell in cells)]
        tokens = [name for name in self.tokens if any(cell.tokens == name for cell in cells)]
        return replace(self, cells=cells, layers=layers, tokens=tokens)


@dataclass(frozen=True, slots=True)
class FilterContext:
    """What a filter decides by.

    Attributes:
        cells: the grid.
        lm: the unsteered model, as lmms-eval wraps it.
        vectors: the vectors by the names that cells use.
        questions: the questions, in the study's order.
        batch_size: questions in one forward pass.
        folder: the study's folder, where a filter may store what it computed.
        task: the task that the questions are of.
        seed: seed for everything that a filter draws.
    """

    cells: Sequence[Cell]
    lm: Any
    vectors: Mapping[str, SteeringVectors]
    questions: Sequence[Question]
    batch_size: int
    folder: Path
    task: Any = None
    seed: int = 0


StrategyBuilder = Callable[[StrategyContext], Strategy]
CellFilter = Callable[[FilterContext], list[Cell]]
KeepingProbability = Callable[[StrategyContext, float, float], float]
"""(search, gain, discordant share of the answers) ▸ the probability that a cell with this gain is not dropped."""


def _count_grid(search: StrategyContext) -> int:
    return len(search.cells) * search.n


def _describe_grid(search: StrategyContext) -> str:
    return f"{len(search.cells)} cells x {search.n} questions"


def _all_kept(_: StrategyContext, __: float, ___: float) -> float:
    return 1.0


def _no_passes(_: Sequence[Cell], __: int) -> int:
    return 0


def _none_spent(_: int) -> int:
    return 0


def _all_cells(cells: Sequence[Cell]) -> Sequence[Cell]:
    return cells


@dataclass(frozen=True, slots=True)
class SearchStrategy:
    """A registered strategy.

    Attributes:
        name: what users type and plans store.
        description: one plain line for help and documentation.
        build: makes the generator.
        planned_answers: the largest number of answers (one cell, one question) it may ask for; for the progress bar.
        summary: the line that is printed when the search begins.
        filter: drops cells before the first rung; None for a strategy that drops none.
        questions_spent: n ▸ how many of the first of n questions decided which cells are measured on the others.
            The p-value is then computed without them. What the rungs' own ranges show need not be repeated.
        needs_answer_set: whether every question needs a fixed set of answers, as gradients of an answer's logit do.
        adaptive: whether later cells are proposed from earlier scores on the same questions. The report then says
            that the p-value does not account for it.
        min_questions: the fewest questions to use it on. A search or a recipe with fewer is refused before the model
            is loaded.
        keeps, filter_keeps: the probability that a cell with some gain is dropped neither on the way nor by the filter,
            for `lmms_steer.search.required_questions`.
        needs_power: whether it is also refused on fewer questions than it takes to find a gain of 8 points.
        drops_targets: whether a token target of a vector may be left without a cell that is measured on all questions.
            Such a strategy cannot choose a cell for each target.
        kept_cells: cells ▸ as many of them as the filter will keep, for an estimate of the cost before it runs.
        filter_passes: (grid, number of questions) ▸ how many full forward passes of a question the filter makes, for an
            estimate of the cost before it runs.
        default_alphas: the strengths if the user gives none, as typed. KL budgets mean that it takes only budgets.
        filters_places: whether the filter looks at vector, layer and target alone. It then runs before KL budgets are
            resolved, so that no alpha is looked for where it keeps nothing.
        configure: (this entry, what the user wrote after the colon) ▸ the strategy to run; None for one that takes no
            argument.
    """

    name: str
    description: str
    build: StrategyBuilder
    planned_answers: Callable[[StrategyContext], int] = _count_grid
    summary: Callable[[StrategyContext], str] = _describe_grid
    filter: CellFilter | None = None
    questions_spent: Callable[[int], int] = _none_spent
    needs_answer_set: bool = False
    adaptive: bool = False
    min_questions: int = 0
    keeps: KeepingProbability = _all_kept
    filter_keeps: KeepingProbability = _all_kept
    needs_power: bool = False
    drops_targets: bool = False
    kept_cells: Callable[[Sequence[Cell]], Sequence[Cell]] = _all_cells
    filter_passes: Callable[[Sequence[Cell], int], int] = _no_passes
    default_alphas: str = DEFAULT_ALPHAS
    filters_places: bool = False
    configure: "Callable[[SearchStrategy, str], SearchStrategy] | None" = None

    @property
    def needs_budgets(self) -> bool:
        """Whether strengths must be KL budgets."""
        return self.default_alphas.startswith(BUDGET)


strategies: Registry[SearchStrategy] = Registry(
    "strategy", "lmms_steer.strategies", tuple(f"{__name__}.{module.name}" for module in iter_modules(__path__))
)


class StrategyAttributes(TypedDict, total=False):
    """What may be given to `register_strategy`: the attributes of `SearchStrategy` that have defaults."""

    planned_answers: Callable[[StrategyContext], int]
    summary: Callable[[StrategyContext], str]
    filter: CellFilter | None
    questions_spent: Callable[[int], int]
    needs_answer_set: bool
    adaptive: bool
    min_questions: int
    keeps: KeepingProbability
    filter_keeps: KeepingProbability
    needs_power: bool
    drops_targets: bool
    kept_cells: Callable[[Sequence[Cell]], Sequence[Cell]]
    filter_passes: Callable[[Sequence[Cell], int], int]
    default_alphas: str
    filters_places: bool
    configure: Callable[[SearchStrategy, str], SearchStrategy] | None


def register_strategy(
    name: str, *, description: str, **attributes: Unpack[StrategyAttributes]
) -> Callable[[StrategyBuilder], StrategyBuilder]:
    """Register the decorated generator function as a strategy.

    Args:
        name: what users type: lower-case letters, digits and underscores.
        description: one plain line for help and documentation.
        attributes: others of `SearchStrategy`. By default the strategy counts as one that measures every cell on every
            question.

    Returns:
        a decorator that returns the function unchanged.

    Raises:
        ValueError: for a name that is taken or not of that form.
    """

    def register(build: StrategyBuilder) -> StrategyBuilder:
        strategies.add(name, SearchStrategy(name, description, build, **attributes))
        return build

    return register
