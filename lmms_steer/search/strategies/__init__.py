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

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import numpy as np

from lmms_steer.errors import UserError, shorten
from lmms_steer.registry import Registry
from lmms_steer.search.plan import BUDGET, Cell, Plan
from lmms_steer.search.questions import Question
from lmms_steer.search.selection import ScoreGrid
from lmms_steer.statistics import Floats, Ints
from lmms_steer.vectors.steering_vectors import SteeringVectors

DEFAULT_ALPHAS = "0.1:1.0:0.1"
"""The strengths that most strategies try if the user gives none, as typed: the paper's."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of a strategy.

    Attributes:
        cells: the cells to measure.
        questions: the questions to measure them on, as places in the study's order.
    """

    cells: Sequence[Cell]
    questions: range


Strategy = Generator[Rung, tuple[Floats, Floats], None]
"""Yields rungs; is sent their scores [cells, questions] and the unsteered scores [questions]."""


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


def _count_grid(search: StrategyContext) -> int:
    return len(search.cells) * search.n


def _describe_grid(search: StrategyContext) -> str:
    return f"{len(search.cells)} cells x {search.n} questions"


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
        drops_targets: whether a token target of a vector may be left without a cell that is measured on all questions.
            Such a strategy cannot choose a cell for each target.
        kept_cells: cells ▸ as many of them as the filter will keep, for an estimate of the cost before it runs.
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
    drops_targets: bool = False
    kept_cells: Callable[[Sequence[Cell]], Sequence[Cell]] = _all_cells
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


def register_strategy(
    name: str,
    *,
    description: str,
    planned_answers: Callable[[StrategyContext], int] = _count_grid,
    summary: Callable[[StrategyContext], str] = _describe_grid,
    filter: CellFilter | None = None,  # noqa: A002  the name of the entry's attribute
    questions_spent: Callable[[int], int] = _none_spent,
    needs_answer_set: bool = False,
    adaptive: bool = False,
    min_questions: int = 0,
    drops_targets: bool = False,
    kept_cells: Callable[[Sequence[Cell]], Sequence[Cell]] = _all_cells,
    default_alphas: str = DEFAULT_ALPHAS,
    filters_places: bool = False,
    configure: Callable[[SearchStrategy, str], SearchStrategy] | None = None,
) -> Callable[[StrategyBuilder], StrategyBuilder]:
    """Register the decorated generator function as a strategy.

    Args:
        name: what users type: lower-case letters, digits and underscores.
        description: one plain line for help and documentation.
        planned_answers: this and all that follow are attributes of `SearchStrategy`. By default the strategy counts as
            one that measures every cell on every question.

    Returns:
        a decorator that returns the function unchanged.

    Raises:
        ValueError: for a name that is taken or not of that form.
    """

    def register(build: StrategyBuilder) -> StrategyBuilder:
        entry = SearchStrategy(
            name, description, build, planned_answers, summary, filter, questions_spent, needs_answer_set, adaptive,
            min_questions, drops_targets, kept_cells, default_alphas, filters_places, configure,
        )  # fmt: skip
        strategies.add(name, entry)
        return build

    return register


@dataclass(frozen=True, slots=True)
class ChosenStrategy:
    """A strategy as the user chose it, with a filter in front of it or without.

    Attributes:
        name: as typed, and as a study's plan stores it.
        strategy: what runs.
        filtered_by: the strategy whose filter runs first; None without one.
    """

    name: str
    strategy: SearchStrategy
    filtered_by: SearchStrategy | None

    @property
    def needs_answer_set(self) -> bool:
        return self.strategy.needs_answer_set or (self.filtered_by is not None and self.filtered_by.needs_answer_set)

    @property
    def filters_places(self) -> bool:
        """Whether a filter runs before KL budgets are resolved."""
        return self.filtered_by is not None and self.filtered_by.filters_places

    @property
    def _about_alphas(self) -> SearchStrategy:
        """The part of the name that says which strengths are searched."""
        return self.filtered_by if self.filtered_by is not None and self.filtered_by.needs_budgets else self.strategy

    @property
    def default_alphas(self) -> str:
        """The strengths if the user gives none, as typed."""
        return self._about_alphas.default_alphas

    @property
    def needs_budgets(self) -> bool:
        """Whether strengths must be KL budgets."""
        return self._about_alphas.needs_budgets

    @property
    def min_questions(self) -> int:
        """The fewest questions to use it on: what the strategy needs, or its filter if that needs more."""
        by_filter = self.filtered_by.min_questions if self.filtered_by is not None else 0
        return max(self.strategy.min_questions, by_filter)

    def check_questions(self, n: int, where: str) -> None:
        """Check that there are enough questions.

        Args:
            n: number of questions, or an upper limit of it.
            where: what sets this number, for the message.

        Raises:
            UserError: for fewer than `min_questions`.
        """
        if n < self.min_questions:
            raise UserError(
                f"the strategy {self.name} needs at least {self.min_questions} questions, and {where} has {n}: on fewer"
                " it loses gains that the grid finds; use the strategy grid (--strategy grid)"
            )

    def check_targets(self) -> None:
        """Check that a cell can be chosen for each token target.

        Raises:
            UserError: for a strategy that may measure no cell of a target on all questions.
        """
        if self.strategy.drops_targets or (self.filtered_by is not None and self.filtered_by.drops_targets):
            raise UserError(
                f"the strategy {self.name} may drop every cell of a token target, so it cannot choose one for each"
                " (choose per_target): use the strategy grid"
            )

    def planned_answers(self, context: StrategyContext) -> int:
        """The largest number of answers, one cell and one question each, after the filter if there is one."""
        kept = context.cells if self.filtered_by is None else self.filtered_by.kept_cells(context.cells)
        return self.strategy.planned_answers(context.restricted_to(kept))

    def resolved_cells(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        """As many of the cells as have their KL budgets resolved: those that a filter of places will keep."""
        return self.filtered_by.kept_cells(cells) if self.filters_places and self.filtered_by is not None else cells

    def questions_spent(self, n: int) -> int:
        """How many of the first of n questions decided, beyond the rungs, which cells are measured on the others."""
        by_filter = self.filtered_by.questions_spent(n) if self.filtered_by is not None else 0
        return max(self.strategy.questions_spent(n), by_filter)

    def filtered(self, context: FilterContext) -> list[Cell]:
        """The cells that the filter keeps; all of them without a filter."""
        if self.filtered_by is None or self.filtered_by.filter is None:
            return list(context.cells)
        return self.filtered_by.filter(context)


def parse_strategy(strategy: str | StrategyBuilder) -> ChosenStrategy:
    """Look up a strategy: `race`, `race+screen`, `budget:agreement`, or a generator function, registered or not.

    Raises:
        UserError: for an unknown name, with the nearest known one; for a second part that has no filter.
    """
    if not isinstance(strategy, str):
        registered = next((entry for entry in strategies.loaded().values() if entry.build is strategy), None)
        if registered is not None:
            return parse_strategy(registered.name)
        named = strategy if hasattr(strategy, "__qualname__") else type(strategy)
        name = f"{named.__module__}.{named.__qualname__}"
        return ChosenStrategy(name, SearchStrategy(name, "", strategy), None)
    first, plus, second = strategy.partition("+")
    chosen = _configured(first)
    if not plus:
        return ChosenStrategy(strategy, chosen, chosen if chosen.filter is not None else None)
    if chosen.filter is not None:
        raise UserError(f"strategy {strategy!r}: {first!r} is a filter, which is written last and runs first")
    after = _configured(second)
    if after.filter is None:
        filters = ", ".join(name for name, entry in strategies.entries().items() if entry.filter is not None)
        raise UserError(f"strategy {strategy!r}: {second!r} is no filter: expected one of {filters} after the '+'")
    return ChosenStrategy(strategy, chosen, after)


def _configured(name: str) -> SearchStrategy:
    """The entry of `budget`, or of `budget:agreement` with its argument.

    Raises:
        UserError: for an unknown name or argument, or an argument of a strategy that takes none.
    """
    name, colon, argument = name.partition(":")
    entry = strategies.get(name)
    if not colon:
        return entry
    if entry.configure is None:
        raise UserError(f"the strategy {name} takes no argument, but is given {shorten(argument)!r}")
    return entry.configure(entry, argument)


def run_strategy(
    strategy: Strategy,
    n: int,
    measure: Callable[[int, Rung], tuple[Floats, Floats]],
    after_rung: Callable[[ScoreGrid], None] | None = None,
    image_of: Ints | None = None,
) -> ScoreGrid:
    """Run a strategy to its end.

    Args:
        strategy: the generator.
        n: number of questions.
        measure: (number of the rung, rung) ▸ its scores, as the generator is sent them.
        after_rung: called with all scores so far after each rung.
        image_of: the image of each question, numbered from 0; None where no two questions share one.

    Returns:
        the scores of all cells that were measured; NaN where a cell was not measured on a question.
    """
    rows: dict[Cell, Floats] = {}
    base = np.full(n, np.nan)
    grid = ScoreGrid([], np.empty((0, n)), base, image_of=image_of)
    number, spent, rung = 0, 0, next(strategy, None)
    while rung is not None:
        spent = max(spent, rung.questions.start)
        scores, unsteered = measure(number, rung)
        for cell, row in zip(rung.cells, scores, strict=True):
            rows.setdefault(cell, np.full(n, np.nan))[rung.questions] = row
        base[rung.questions] = unsteered
        grid = ScoreGrid(list(rows), np.array(list(rows.values())), base, spent, image_of)
        if after_rung is not None:
            after_rung(grid)
        try:
            number, rung = number + 1, strategy.send((scores, unsteered))
        except StopIteration:
            rung = None
    return grid
