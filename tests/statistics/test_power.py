"""Which gain can be found: against Connor's formula by hand, and by simulation with the search's own test."""

import math

import numpy as np
import pytest

from lmms_steer.search import selection
from lmms_steer.search.plan import Cell
from lmms_steer.search.selection import LEVEL, ScoreGrid, best_index, corrected_p
from lmms_steer.statistics.paired import tango_interval
from lmms_steer.statistics.power import detectable_gain, questions_needed

QUESTIONS, CELLS, CHANGED = 400, 12, 0.12


def found(gain: float, studies: int = 60) -> float:
    """The share of simulated searches with one planted gain that call a cell a winner."""
    generator, won = np.random.default_rng(0), 0
    for _ in range(studies):
        base = (generator.random(QUESTIONS) < 0.5).astype(float)
        scores = np.repeat(base[None], CELLS, 0)
        for number, row in enumerate(scores):
            share = gain if number == 5 else 0.0
            drawn = generator.random(QUESTIONS)
            # right answers are half of all, so twice the share of them changes
            row[(base == 0) & (drawn < CHANGED + share)] = 1.0
            row[(base == 1) & (drawn < CHANGED - share)] = 0.0
        grid = ScoreGrid([Cell("v", number, 1.0, "image") for number in range(CELLS)], scores, base)
        won += corrected_p(grid, best_index(grid)) < LEVEL
    return won / studies


@pytest.mark.slow
def test_a_detectable_gain_is_found_by_the_search_s_own_test_as_often_as_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selection, "PERMUTATIONS", 400)
    gain = detectable_gain(QUESTIONS, CHANGED, CELLS)
    assert 0.7 <= found(gain) <= 0.95
    assert found(gain / 2) < 0.4


@pytest.mark.parametrize(("n", "changed"), [(200, 0.1), (1000, 0.05), (1000, 0.3)])
def test_at_half_the_level_a_two_sided_interval_shows_the_gain_in_four_of_five_runs(n: int, changed: float) -> None:
    gain = detectable_gain(n, changed, level=0.025)
    shares = [(changed + gain) / 2, (changed - gain) / 2, 1 - changed]
    counts = np.random.default_rng(0).multinomial(n, shares, size=4000)
    low, _ = tango_interval(counts[:, 0], counts[:, 1], n)
    assert 0.77 <= (low > 0).mean() <= 0.83


def test_of_graded_scores_the_mean_squared_change_counts() -> None:
    n, spread = 500, 0.05
    gain = detectable_gain(n, spread**2, level=0.025, most=spread)
    assert gain == pytest.approx((1.96 + 0.8416) * spread / math.sqrt(n), abs=2e-4)
    changes = np.random.default_rng(0).normal(gain, math.sqrt(spread**2 - gain**2), (4000, n))
    low = changes.mean(1) - 1.965 * changes.std(1, ddof=1) / math.sqrt(n)
    assert 0.77 <= (low > 0).mean() <= 0.83


def test_the_number_of_questions_is_connor_s() -> None:
    # one-sided 5%, 80% power: (1.6449 sqrt(0.2) + 0.8416 sqrt(0.2 - 0.05²))² / 0.05² = 492.7
    assert questions_needed(0.05, 0.2) == 493
    # the level is divided by the cells: 0.05 / 24 has the critical value 2.865
    assert questions_needed(0.05, 0.2, 24) == pytest.approx(1095, abs=3)
    assert questions_needed(0.05, 0.049) == math.inf, "no gain is larger than the share that changes"


def test_a_detectable_gain_is_the_smallest_that_the_questions_suffice_for() -> None:
    for n, discordant, cells in ((100, 0.2, 1), (1000, 0.1, 24), (2500, 0.3, 100)):
        gain = detectable_gain(n, discordant, cells)
        assert questions_needed(gain, discordant, cells) <= n < questions_needed(gain - 2e-4, discordant, cells)
    assert math.isnan(detectable_gain(100, 0.05)), "even if all changes are for the better"
    assert math.isnan(detectable_gain(100, 0.0))
