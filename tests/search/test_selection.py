"""The choice of a cell and its corrected p-value, on simulated scores."""

from typing import Any

import numpy as np
import pytest

from lmms_steer.search.plan import Cell
from lmms_steer.search.selection import ScoreGrid, best_index, cautious_index, corrected_p


def simulated(rng: np.random.Generator, cells: int, questions: int, effect: float = 0.0) -> ScoreGrid:
    """A baseline of 60%; each cell changes one answer in ten by chance, and the first gains `effect`."""
    base = (rng.random(questions) < 0.6).astype(float)
    flips = rng.random((cells, questions)) < 0.1
    scores = np.where(flips, (rng.random((cells, questions)) < 0.6).astype(float), base)
    scores[0] = np.where(rng.random(questions) < effect, 1.0, scores[0])
    return ScoreGrid([Cell("v", i, 1.0 + i, "image") for i in range(cells)], scores, base)


@pytest.mark.slow
def test_the_corrected_p_holds_its_rate_with_no_effect_and_finds_a_planted_one() -> None:
    rng = np.random.default_rng(0)
    null = [simulated(rng, 40, 200) for _ in range(200)]
    low = np.mean([corrected_p(g, best_index(g)) < 0.05 for g in null])
    assert low <= 0.085, "5% of 200, and three standard errors"
    planted = [simulated(rng, 40, 300, effect=0.3) for _ in range(20)]
    assert all(best_index(g) == 0 and corrected_p(g, 0) < 0.05 for g in planted)


def test_one_image_for_all_questions_shows_no_effect() -> None:
    base, scores = np.zeros(40), np.ones((2, 40))
    scores[1, :30] = 0
    cells = [Cell("v", 0, 0.5, "image"), Cell("v", 0, 0.1, "image")]
    grid = ScoreGrid(cells, scores, base, image_of=np.zeros(40, dtype=np.int64))
    assert corrected_p(grid, best_index(grid)) == 1.0
    assert cautious_index(grid) == 1, "any cell may be as good"
    assert corrected_p(ScoreGrid(cells, scores, base), 0) < 0.001, "as if each question had its own"


@pytest.mark.parametrize("choose", [best_index, cautious_index])
def test_equal_gains_are_equal_whatever_their_rounding(choose: Any) -> None:
    rng = np.random.default_rng(0)
    graded = rng.integers(0, 11, 30) / 10
    weak, strong = 0, 0
    for _ in range(20):
        # the same graded scores on other questions: their mean differs by rounding
        scores = np.array([rng.permutation(graded), rng.permutation(graded)])
        weak += scores[0].mean() > scores[1].mean()
        strong += scores[1].mean() > scores[0].mean()
        cells = [Cell("v", 2, 0.1, "image"), Cell("v", 1, 0.9, "image")]
        assert choose(ScoreGrid(cells, scores, np.zeros(30))) == 0
        assert choose(ScoreGrid([Cell("v", 2, 0.1, "image"), Cell("v", 1, 0.1, "image")], scores, np.zeros(30))) == 1
    assert weak and strong


def test_the_one_standard_error_rule_takes_the_smallest_alpha_near_the_best() -> None:
    base = np.zeros(100)
    scores = np.zeros((3, 100))
    scores[0, :10] = 1  # far below
    scores[1, :49] = 1  # one question behind the best, and weaker
    scores[2, :50] = 1
    compared = ScoreGrid(
        [Cell("v", 0, 0.1, "image"), Cell("v", 0, 0.5, "image"), Cell("v", 0, 1.0, "image")], scores, base
    )
    assert best_index(compared) == 2 and cautious_index(compared) == 1
    # the best loses, too, and the weakest one is within its error
    base[:51], scores[0, :10], scores[0, 10:58], scores[1] = 1, 0, 1, 0
    assert compared.gains.max() < 0 and best_index(compared) == 2 and cautious_index(compared) == 0
