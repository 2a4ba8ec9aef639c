"""Grid: every cell on every question."""

from lmms_steer.search.strategies import Rung, Strategy, StrategyContext, register_strategy


@register_strategy("grid", description="every cell on every question")
def grid(search: StrategyContext) -> Strategy:
    """One rung with everything."""
    yield Rung(search.cells, range(search.n))
