"""The strategy of a search as a user names it: `race`, `race+screen`, `budget:agreement`, or a function."""

from collections.abc import Sequence
from dataclasses import dataclass

from lmms_steer.errors import UserError, shorten
from lmms_steer.search.plan import Cell
from lmms_steer.search.strategies import FilterContext, SearchStrategy, StrategyBuilder, StrategyContext, strategies


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
        """The fewest questions that the strategy declares, or its filter if that declares more."""
        by_filter = self.filtered_by.min_questions if self.filtered_by is not None else 0
        return max(self.strategy.min_questions, by_filter)

    @property
    def needs_power(self) -> bool:
        """Whether it is refused on fewer questions than it takes to find a gain of 8 points."""
        return self.strategy.needs_power or (self.filtered_by is not None and self.filtered_by.needs_power)

    def keeps(self, context: StrategyContext, gain: float, discordant: float) -> float:
        """The probability that a cell with a gain is not dropped on the way.

        Args:
            context: the search, before the filter.
            gain: as a share of the questions.
            discordant: the share of questions whose answer changes between right and wrong.
        """
        by_filter = 1.0 if self.filtered_by is None else self.filtered_by.filter_keeps(context, gain, discordant)
        return by_filter * self.strategy.keeps(self.after_filter(context), gain, discordant)

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
        return self.strategy.planned_answers(self.after_filter(context))

    def after_filter(self, context: StrategyContext) -> StrategyContext:
        """The search with as many cells as the filter will keep; the search itself without a filter."""
        if self.filtered_by is None:
            return context
        return context.restricted_to(self.filtered_by.kept_cells(context.cells))

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
        filters = ", ".join(sorted(name for name, entry in strategies.entries().items() if entry.filter is not None))
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
