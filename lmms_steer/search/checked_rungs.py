"""Check what a strategy asks for before it is measured: it may be another package's, or a user's own function."""

import math
from collections.abc import Callable, Collection, Generator, Sequence
from numbers import Integral, Real
from typing import NoReturn

from lmms_steer.errors import UserError, shorten
from lmms_steer.search.plan import Cell
from lmms_steer.search.rungs import Rung, Strategy
from lmms_steer.search.strategies import StrategyContext


def checked(strategy: object, name: str, search: StrategyContext, fixed_alphas: bool = False) -> Strategy:
    """The same strategy, ended with one line where it asks for what cannot be measured.

    Args:
        strategy: what its function returned.
        name: as the user named it, for messages.
        search: what it was built from.
        fixed_alphas: whether only cells of the grid can be measured, because their alphas were resolved for a budget.

    Raises:
        UserError: for anything but a generator of rungs; a rung without cells, or of cells that are not searched; a
            rung whose questions are not a range of the study's.
    """
    if not isinstance(strategy, Generator):
        raise UserError(f"the strategy {name} returned a {type(strategy).__name__}: write a function that yields rungs")
    answer, only = None, set(search.cells) if fixed_alphas else None
    while True:
        try:
            rung = strategy.send(answer)
        except StopIteration:
            return
        answer = yield _checked_rung(rung, name, search, only)


def check_kept(kept: object, name: str, cells: Collection[Cell]) -> list[Cell]:
    """Check what the filter of a strategy keeps.

    Args:
        kept: what it returned.
        name: the strategy's, for messages.
        cells: the cells that it was given.

    Raises:
        UserError: for none, or anything but some of these cells.
    """
    if not isinstance(kept, Sequence):
        raise UserError(f"the filter of {name} returned a {type(kept).__name__}: expected a list of cells")
    if not kept:
        raise UserError(f"the filter of {name} keeps no cell: there is nothing to search")
    own = set(cells)
    other = next((cell for cell in kept if not isinstance(cell, Cell) or cell not in own), None)
    if other is not None:
        raise UserError(f"the filter of {name} keeps {shorten(other)}, which is not a cell that it was given")
    return list(kept)


def _checked_rung(rung: object, name: str, search: StrategyContext, only: Collection[Cell] | None) -> Rung:
    def refuse(what: str) -> NoReturn:
        raise UserError(f"the strategy {name} {what}")

    if not isinstance(rung, Rung):
        refuse(f"yielded a {type(rung).__name__}: expected Rung(cells, questions)")
    questions = rung.questions
    if not isinstance(questions, range) or questions.step != 1:
        refuse(f"asks for the questions {shorten(questions)}: expected a range without gaps, as in range(0, search.n)")
    if not 0 <= questions.start < questions.stop <= search.n:
        refuse(f"asks for the questions {questions}: the search has the questions 0-{search.n - 1}")
    if not isinstance(rung.cells, Sequence) or not rung.cells:
        refuse(f"asks for the cells {shorten(rung.cells)}: expected a list of at least one")
    return Rung([_checked_cell(cell, search, only, refuse) for cell in rung.cells], questions)


def _checked_cell(
    cell: object, search: StrategyContext, only: Collection[Cell] | None, refuse: Callable[[str], NoReturn]
) -> Cell:
    """The cell, its numbers as Python's own, which can be written to files."""
    if not isinstance(cell, Cell):
        refuse(f"asks for {shorten(repr(cell))}, which is no cell")
    for key, value, known in (
        ("vector", cell.vector, search.vectors),
        ("layer", cell.layer, search.layers),
        ("tokens", cell.tokens, search.tokens),
    ):
        if value not in known:
            refuse(f"asks for {shorten(cell)}: {key} is none of {shorten(', '.join(map(str, known)))}")
    if not isinstance(cell.layer, Integral) or not isinstance(cell.alpha, Real) or not math.isfinite(cell.alpha):
        refuse(f"asks for {shorten(cell)}: expected a finite number for alpha")
    own = Cell(cell.vector, int(cell.layer), float(cell.alpha), cell.tokens)
    if only is not None and own not in only:
        refuse(f"asks for {shorten(own)}: with KL budgets only the cells of the grid have an alpha")
    return own
