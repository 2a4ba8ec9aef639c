"""Warnings of what was typed for a search and has no effect on it."""

from collections.abc import Iterator

from lmms_steer._util.code import is_built_in
from lmms_steer.errors import shorten
from lmms_steer.search.options import DEFAULT_TRIALS, SearchOptions
from lmms_steer.steering.budget_text import BUDGET


def ignored_lines(options: SearchOptions, n: int) -> Iterator[str]:
    """A warning for each thing that has no effect.

    Args:
        options: as typed.
        n: number of questions that are searched on.
    """
    strategy = options.chosen_strategy.strategy
    # one of the user's own may read the number of trials
    if options.trials != DEFAULT_TRIALS and not strategy.adaptive and is_built_in(strategy.build):
        yield f"WARNING: --trials {options.trials} has no effect: the strategy {strategy.name} proposes no cells"
    for name, text in (("alphas", options.alphas), ("tokens", options.tokens)):
        if _repeats(text):
            yield f"WARNING: --{name} {shorten(text)}: values that are given twice count once"
    if options.limit is not None and options.limit > n:
        yield f"WARNING: --limit {options.limit} has no effect: {options.task} has {n} questions"


def _repeats(text: str) -> bool:
    """Whether a list names something twice; a range does not."""
    values = [_value(part.strip().removeprefix(BUDGET)) for part in text.split(",")]
    return len(set(values)) < len(values)


def _value(part: str) -> float | str:
    try:
        return float(part)
    except ValueError:
        return part
