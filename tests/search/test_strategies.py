"""Races, proposals and screens on simulated studies: what they find, what they cost, how often they claim a winner."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from lmms_steer.search.assessment import cell_result
from lmms_steer.search.plan import Cell
from lmms_steer.search.rungs import run_strategy
from lmms_steer.search.selection import ScoreGrid, best_index, cautious_index, corrected_p
from lmms_steer.search.strategies import Rung, Strategy, StrategyContext
from lmms_steer.search.strategies.grid import grid as full_grid
from lmms_steer.search.strategies.race import MIN_FINALISTS, planned_answers, race, rung_ends
from lmms_steer.search.strategies.screen import promising
from lmms_steer.search.strategies.tpe import tpe
from lmms_steer.statistics import Floats, Ints
from lmms_steer.statistics.clustered import cluster_ids

CELLS = [Cell("v", *cell) for cell in product(range(8), (0.25, 0.5, 0.75, 1.0), ("image", "text"))]
WINNER = Cell("v", 3, 0.5, "image")
Measure = Callable[[int, Rung], tuple[Floats, Floats]]


def simulated(seed: int, effect: float, n: int = 300, cells: Sequence[Cell] = CELLS) -> ScoreGrid:
    """A baseline of 60%; each cell changes one answer in ten by chance, and `WINNER` gains `effect`."""
    rng = np.random.default_rng(seed)
    base = (rng.random(n) < 0.6).astype(float)
    flips = rng.random((len(cells), n)) < 0.1
    scores = np.where(flips, (rng.random((len(cells), n)) < 0.6).astype(float), base)
    row = cells.index(WINNER)
    scores[row] = np.where(rng.random(n) < effect, 1.0, scores[row])
    return ScoreGrid(list(cells), scores, base)


def reader(grid: ScoreGrid, answers: list[int] | None = None) -> Measure:
    def measure(_: int, rung: Rung) -> tuple[Floats, Floats]:
        if answers is not None:
            answers.append(len(rung.cells) * len(rung.questions))
        columns = list(rung.questions)
        return grid.scores[np.ix_([grid.cells.index(c) for c in rung.cells], columns)], grid.base[columns]

    return measure


def test_a_race_finds_a_planted_winner_for_a_fifth_of_the_grid() -> None:
    found = 0
    for seed in range(10):
        full, answers = simulated(seed, 0.5, 1200), list[int]()
        raced = run_strategy(race(StrategyContext(CELLS, 1200)), 1200, reader(full, answers))
        assert sum(answers) <= planned_answers(StrategyContext(CELLS, 1200)) <= 1200 * len(CELLS) / 5
        assert len(raced.cells) == len(CELLS) and len(raced.finalists) <= MIN_FINALISTS and raced.spent == 400
        chosen = best_index(raced)
        assert raced.cells[cautious_index(raced)] in [raced.cells[i] for i in raced.finalists]
        found += raced.cells[chosen] == WINNER and corrected_p(raced, chosen) < 0.05
    assert found >= 9


@pytest.mark.slow
def test_a_race_without_an_effect_rarely_claims_a_winner() -> None:
    claims = 0
    for seed in range(150):
        raced = run_strategy(race(StrategyContext(CELLS, 300)), 300, reader(simulated(seed, effect=0.0)))
        claims += corrected_p(raced, best_index(raced)) < 0.05
    assert claims / 150 <= 0.104, "5%, and three standard errors"


def test_each_vector_has_a_race_of_its_own() -> None:
    both = [*CELLS, *(Cell("weak", c.layer, c.alpha, c.tokens) for c in CELLS)]
    raced = run_strategy(race(StrategyContext(both, 300)), 300, reader(simulated(0, effect=0.5, cells=both)))
    assert {raced.cells[i].vector for i in raced.finalists} == {"v", "weak"}
    assert raced.of("weak").cells[0].vector == "weak" and raced.of("v").cells[best_index(raced.of("v"))] == WINNER


def after_first_rung(alphas: Sequence[float], scores: Floats, image_of: Ints | None = None) -> list[float]:
    """The alphas of the cells that a race keeps after these scores on its first 100 questions."""
    cells = [Cell("v", 0, alpha, "image") for alpha in alphas]
    strategy = race(StrategyContext(cells, 1200, image_of, vectors=("v",)))
    assert len(next(strategy).questions) == 100
    return [cell.alpha for cell in strategy.send((scores, np.zeros(100))).cells]


def test_of_equally_good_cells_a_race_keeps_the_weakest() -> None:
    alphas = (-4.0, -3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 4.0)
    assert after_first_rung(alphas, np.ones((8, 100))) == [-1.0, 1.0, -2.0, 2.0]
    rng = np.random.default_rng(0)
    graded = rng.random(100)
    scores = np.array([rng.permutation(graded) for _ in alphas])
    assert len(set(scores.mean(1))) > 1, "they differ by rounding"
    assert after_first_rung(alphas, scores) == [-1.0, 1.0, -2.0, 2.0]


@pytest.mark.parametrize(
    ("n", "ends"),
    [
        (50, [50]),
        (100, [100]),
        (381, [100, 381]),
        (600, [100, 200, 600]),
        (612, [100, 204, 612]),
        (1200, [100, 200, 400, 1200]),
    ],
)
def test_a_race_drops_cells_only_after_many_more_questions(n: int, ends: list[int]) -> None:
    assert rung_ends(n) == ends


def test_a_race_drops_a_cell_that_is_clearly_below_the_best() -> None:
    right = np.array([20, 60, 58, 59])
    assert after_first_rung((1.0, 2.0, 3.0, 4.0), (np.arange(100) < right[:, None]).astype(float)) == [2.0, 4.0, 3.0]


def test_few_images_show_less_than_as_many_questions() -> None:
    # on three images: t with two degrees of freedom, 4.3, and not 1.96
    image_of = np.concatenate((np.repeat([0, 1, 2], [34, 33, 33]), 3 + np.arange(1100)))
    scores = np.ones((4, 100))
    for first, wrong in ((0, 3), (34, 7), (67, 10)):
        scores[1, first : first + wrong] = 0
    assert after_first_rung((1.0, 2.0, 3.0, 4.0), scores, image_of) == [1.0, 3.0, 4.0, 2.0]
    assert after_first_rung((1.0, 2.0, 3.0, 4.0), scores) == [1.0, 3.0, 4.0]


def test_a_grid_measures_everything_and_a_small_study_drops_no_cell() -> None:
    grid = run_strategy(full_grid(StrategyContext(CELLS, 300)), 300, reader(simulated(0, 0.5)))
    assert len(grid.finalists) == len(CELLS) and grid.spent == 0 and grid.cells[best_index(grid)] == WINNER
    few = run_strategy(race(StrategyContext(CELLS, 12)), 12, reader(simulated(0, 0.5, n=12)))
    assert len(few.finalists) == len(CELLS), "with fewer questions than a first rung, every cell is measured on all"


def proposing(layers: Sequence[int], left_out: Sequence[tuple[int, str]] = ()) -> StrategyContext:
    """What `tpe` proposes from, without some layers' targets."""
    alphas, tokens = (0.1, 1.0), ("image", "text")
    cells = [Cell("v", *cell) for cell in product(layers, alphas, tokens) if (cell[0], cell[2]) not in left_out]
    return StrategyContext(cells, 4, None, 3, 48, ["v"], layers, alphas, tokens)


def test_tpe_approaches_the_best_alpha_and_is_deterministic() -> None:
    def measure(_: int, rung: Rung) -> tuple[Floats, Floats]:
        value = [[1 - abs(c.alpha - 0.6) - 0.1 * abs(c.layer - 7)] * 4 for c in rung.cells]
        return np.array(value), np.zeros(4)

    def run() -> ScoreGrid:
        return run_strategy(tpe(proposing((5, 6, 7, 9))), 4, measure)

    first, again = run(), run()
    assert list(first.cells) == list(again.cells) and len(first.cells) == 48
    chosen = first.cells[best_index(first)]
    assert chosen.layer == 7 and abs(chosen.alpha - 0.6) < 0.05
    assert np.mean([abs(c.alpha - 0.6) for c in first.cells[-16:]]) < np.mean(
        [abs(c.alpha - 0.6) for c in first.cells[:16]]
    )


def test_tpe_proposes_nothing_that_the_grid_leaves_out() -> None:
    layers = (5, 6, 7, 9)

    def measure(_: int, rung: Rung) -> tuple[Floats, Floats]:
        # the best cells would be at the place that is left out
        return np.array([[0.1 * c.layer + (c.tokens == "image")] * 4 for c in rung.cells]), np.zeros(4)

    whole = run_strategy(tpe(proposing(layers)), 4, measure)
    assert any((cell.layer, cell.tokens) == (9, "image") for cell in whole.cells)
    for left_out in ([(9, "image")], [(9, "image"), (9, "text")], [*product((5, 6, 7), ("image", "text"))]):
        first, again = (run_strategy(tpe(proposing(layers, left_out)), 4, measure) for _ in range(2))
        assert list(first.cells) == list(again.cells) and len(first.cells) == 48
        assert not {(cell.layer, cell.tokens) for cell in first.cells} & set(left_out)


def test_a_screen_keeps_the_most_promising_third_of_each_vector() -> None:
    cells = [Cell(v, layer, alpha, "image") for v in ("a", "b") for layer in range(6) for alpha in (0.5, 1.0)]
    shares = [0.1 * cell.layer if cell.vector == "a" else -0.1 * cell.layer for cell in cells]
    assert {(c.vector, c.layer) for c in promising(cells, shares)} == {("a", 5), ("a", 4), ("b", 0), ("b", 1)}


def test_the_corrected_p_uses_only_questions_that_dropped_no_cell() -> None:
    grid = simulated(0, 0.5)
    dropped = grid.scores.copy()
    dropped[CELLS.index(Cell("v", 0, 0.25, "text")), 100:] = np.nan
    # a gain on the questions that dropped cells only must not count
    early = dropped.copy()
    early[CELLS.index(WINNER), 100:] = grid.base[100:]
    assert corrected_p(ScoreGrid(CELLS, early, grid.base, 100), CELLS.index(WINNER)) == pytest.approx(1.0)
    assert corrected_p(ScoreGrid(CELLS, dropped, grid.base, 100), CELLS.index(WINNER)) < 0.05


def test_questions_that_dropped_cells_are_spent_even_where_a_strategy_begins_again() -> None:
    grid = simulated(0, 0.0)
    # the best of many cells on the first half, by chance
    half = 150

    def begins_again(search: StrategyContext) -> Strategy:
        scores, _ = yield Rung(search.cells, range(half))
        best = np.argsort(-scores.mean(1))[:2]
        yield Rung([search.cells[place] for place in best], range(search.n))

    found = run_strategy(begins_again(StrategyContext(CELLS, 300)), 300, reader(grid))
    assert found.spent == half and found.unspent.tolist() == list(range(half, 300))
    assert len(found.finalists) == 2
    whole = run_strategy(full_grid(StrategyContext(CELLS, 300)), 300, reader(grid))
    assert whole.spent == 0


IMAGES = np.repeat(np.arange(40), 8)


def sharing(rng: np.random.Generator, effect: float = 0.0) -> ScoreGrid:
    """40 images of 8 questions; a cell changes the answers to all of an image's questions, or to none."""
    base = np.repeat(rng.random(40) < 0.5, 8).astype(float)
    flips = np.repeat(rng.random((len(CELLS), 40)) < 0.5, 8, axis=1)
    scores = np.where(flips, np.repeat(rng.random((len(CELLS), 40)) < 0.5, 8, axis=1), base)
    row = CELLS.index(WINNER)
    scores[row] = np.where(np.repeat(rng.random(40) < effect, 8), 1.0, scores[row])
    return ScoreGrid(CELLS, scores.astype(float), base, image_of=IMAGES)


@pytest.mark.slow
def test_the_corrected_p_holds_its_level_where_questions_share_images() -> None:
    rng = np.random.default_rng(0)
    null = [sharing(rng) for _ in range(200)]
    low = np.mean([corrected_p(grid, best_index(grid)) < 0.05 for grid in null])
    assert low == pytest.approx(0.05, abs=0.046), "three standard errors"
    alone = [corrected_p(replace(grid, image_of=None), best_index(grid)) < 0.05 for grid in null]
    assert np.mean(alone) > 0.3, "without clustering by image the level is far exceeded"
    assert np.mean([cell_result(grid, 0).p < 0.05 for grid in null]) <= 0.096
    covered = [cell_result(grid, 0).low <= 0 <= cell_result(grid, 0).high for grid in null]
    assert np.mean(covered) >= 0.9
    planted = [sharing(rng, effect=1.0) for _ in range(20)]
    assert all(
        best_index(grid) == CELLS.index(WINNER) and corrected_p(grid, best_index(grid)) < 0.05 for grid in planted
    )


@pytest.mark.slow
def test_a_race_over_shared_images_holds_its_level() -> None:
    rng, claims = np.random.default_rng(1), 0
    for _ in range(150):
        grid = sharing(rng)
        raced = run_strategy(race(StrategyContext(CELLS, 320, IMAGES)), 320, reader(grid), image_of=IMAGES)
        assert raced.spent == 100 and len(raced.unspent) == 216, "an image on both sides of the boundary is left out"
        claims += corrected_p(raced, best_index(raced)) < 0.05
    assert claims / 150 <= 0.104, "5%, and three standard errors"


def test_without_shared_images_the_numbers_do_not_change() -> None:
    # computed before images were taken into account, on binary and on graded scores
    rng, found = np.random.default_rng(11), []
    for spent in (0, 100):
        base = (rng.random(300) < 0.6).astype(float)
        flips = rng.random((12, 300)) < 0.1
        hits = np.where(flips, (rng.random((12, 300)) < 0.6).astype(float), base)
        hits[0] = np.where(rng.random(300) < 0.08, 1.0, hits[0])
        cells = [Cell("v", i, 1.0 + i, "image") for i in range(12)]
        plain = ScoreGrid(cells, hits, base, spent)
        graded = ScoreGrid(cells, np.round(hits * rng.random(hits.shape), 3), base * rng.random(300), spent)
        found += [(best_index(g), cautious_index(g), corrected_p(g, best_index(g))) for g in (plain, graded)]
    assert found == [(0, 0, 0.033483258370814596), (10, 0, 0.5172413793103449), (0, 0, 0.9185407296351824),
                     (4, 0, 0.09195402298850575)]  # fmt: skip
    assert cluster_ids(rng.permutation(300)) is None
