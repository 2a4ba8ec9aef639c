"""Races, proposals and screens on studies that are made up: what they find, what they cost, what they claim."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest

from lmms_steer.search.plan import Cell
from lmms_steer.search.race import FINALISTS, planned, race
from lmms_steer.search.rungs import Rung, climb, everything
from lmms_steer.search.screen import promising
from lmms_steer.search.selection import Floats, Grid, best, corrected_p, one_standard_error
from lmms_steer.search.tpe import tpe

CELLS = [Cell("v", *cell) for cell in product(range(8), (0.25, 0.5, 0.75, 1.0), ("image", "text"))]
WINNER = Cell("v", 3, 0.5, "image")
Measure = Callable[[int, Rung], tuple[Floats, Floats]]


def made_up(seed: int, effect: float, n: int = 300, cells: Sequence[Cell] = CELLS) -> Grid:
    """A baseline right on 6 in 10; each cell changes one answer in ten by chance, and `WINNER` gains `effect`."""
    rng = np.random.default_rng(seed)
    base = (rng.random(n) < 0.6).astype(float)
    flips = rng.random((len(cells), n)) < 0.1
    scores = np.where(flips, (rng.random((len(cells), n)) < 0.6).astype(float), base)
    row = cells.index(WINNER)
    scores[row] = np.where(rng.random(n) < effect, 1.0, scores[row])
    return Grid(list(cells), scores, base)


def reading(grid: Grid, asked: list[int] | None = None) -> Measure:
    def measure(_: int, rung: Rung) -> tuple[Floats, Floats]:
        if asked is not None:
            asked.append(len(rung.cells) * len(rung.questions))
        columns = list(rung.questions)
        return grid.scores[np.ix_([grid.cells.index(c) for c in rung.cells], columns)], grid.base[columns]

    return measure


def test_a_race_finds_a_planted_winner_for_a_fifth_of_the_grid() -> None:
    found = 0
    for seed in range(10):
        full, asked = made_up(seed, effect=0.5), list[int]()
        raced = climb(race(CELLS, 300), 300, reading(full, asked))
        assert sum(asked) <= planned(CELLS, 300) <= 300 * len(CELLS) / 5
        assert len(raced.cells) == len(CELLS) and len(raced.finalists) <= FINALISTS and raced.spent == 100
        chosen = best(raced)
        assert raced.cells[one_standard_error(raced)] in [raced.cells[i] for i in raced.finalists]
        found += raced.cells[chosen] == WINNER and corrected_p(raced, chosen) < 0.05
    assert found >= 9


def test_a_race_where_nothing_wins_seldom_claims_that_something_did() -> None:
    claims = 0
    for seed in range(150):
        raced = climb(race(CELLS, 300), 300, reading(made_up(seed, effect=0.0)))
        claims += corrected_p(raced, best(raced)) < 0.05
    assert claims / 150 <= 0.104, "5%, and three standard errors"


def test_each_vector_has_a_race_of_its_own() -> None:
    both = [*CELLS, *(Cell("weak", c.layer, c.alpha, c.tokens) for c in CELLS)]
    raced = climb(race(both, 300), 300, reading(made_up(0, effect=0.5, cells=both)))
    assert {raced.cells[i].vector for i in raced.finalists} == {"v", "weak"}
    assert raced.of("weak").cells[0].vector == "weak" and raced.of("v").cells[best(raced.of("v"))] == WINNER


def test_everything_asks_everything_and_a_small_study_is_not_raced_on_nothing() -> None:
    grid = climb(everything(CELLS, 300), 300, reading(made_up(0, 0.5)))
    assert len(grid.finalists) == len(CELLS) and grid.spent == 0 and grid.cells[best(grid)] == WINNER
    few = climb(race(CELLS, 12), 12, reading(made_up(0, 0.5, n=12)))
    assert len(few.finalists) == len(CELLS), "fewer questions than a first rung are all asked of all"


def test_tpe_closes_in_on_the_best_strength_and_proposes_the_same_again() -> None:
    def measure(_: int, rung: Rung) -> tuple[Floats, Floats]:
        value = [[1 - abs(c.alpha - 0.6) - 0.1 * abs(c.layer - 7)] * 4 for c in rung.cells]
        return np.array(value), np.zeros(4)

    def run() -> Grid:
        return climb(tpe(["v"], (5, 6, 7, 9), (0.1, 1.0), ("image", "text"), 4, 48, seed=3), 4, measure)

    first, again = run(), run()
    assert list(first.cells) == list(again.cells) and len(first.cells) == 48
    chosen = first.cells[best(first)]
    assert chosen.layer == 7 and abs(chosen.alpha - 0.6) < 0.05
    assert np.mean([abs(c.alpha - 0.6) for c in first.cells[-16:]]) < np.mean(
        [abs(c.alpha - 0.6) for c in first.cells[:16]]
    )


def test_a_screen_keeps_the_third_that_promises_most_of_each_vector() -> None:
    cells = [Cell(v, layer, alpha, "image") for v in ("a", "b") for layer in range(6) for alpha in (0.5, 1.0)]
    shares = [0.1 * cell.layer if cell.vector == "a" else -0.1 * cell.layer for cell in cells]
    assert {(c.vector, c.layer) for c in promising(cells, shares)} == {("a", 5), ("a", 4), ("b", 0), ("b", 1)}


def test_the_corrected_p_counts_only_questions_that_dropped_nobody() -> None:
    grid = made_up(0, 0.5)
    dropped = grid.scores.copy()
    dropped[CELLS.index(Cell("v", 0, 0.25, "text")), 100:] = np.nan
    # a gain that was there only while cells were being dropped is worth nothing
    early = dropped.copy()
    early[CELLS.index(WINNER), 100:] = grid.base[100:]
    assert corrected_p(Grid(CELLS, early, grid.base, 100), CELLS.index(WINNER)) == pytest.approx(1.0)
    assert corrected_p(Grid(CELLS, dropped, grid.base, 100), CELLS.index(WINNER)) < 0.05
