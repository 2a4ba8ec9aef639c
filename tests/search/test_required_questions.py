"""How many questions a race and a screen need: what the formula promises, against simulated studies."""

import numpy as np
import pytest

from lmms_steer.errors import UserError
from lmms_steer.search import selection
from lmms_steer.search.chosen_strategy import parse_strategy
from lmms_steer.search.plan import Cell
from lmms_steer.search.required_questions import check_questions, context_of, finding_probability, questions_needed
from lmms_steer.search.rungs import Rung, run_strategy
from lmms_steer.search.selection import LEVEL, best_index, corrected_p
from lmms_steer.search.strategies import StrategyContext
from lmms_steer.search.strategies.race import race
from lmms_steer.statistics import Floats
from lmms_steer.statistics.power import power, stays

DISCORDANT = 0.1


def drawn(generator: np.random.Generator, cells: int, n: int, gain: float) -> Floats:
    """Differences from the baseline of independent cells, of which the first has a gain: float [cells, questions]."""
    gains = np.zeros((cells, 1))
    gains[0] = gain
    chance = generator.random((cells, n))
    return (chance < (DISCORDANT + gains) / 2).astype(float) - (chance > 1 - (DISCORDANT - gains) / 2)


def test_a_gain_stays_among_the_better_quarter_as_often_as_promised() -> None:
    generator, stayed, studies = np.random.default_rng(0), 0.0, 400
    for _ in range(studies):
        means = drawn(generator, 40, 100, 0.05).mean(1)
        # of equal cells a part is in the quarter
        better, equal = (means[1:] > means[0]).sum(), (means[1:] == means[0]).sum()
        stayed += min(1.0, max(0.0, (10 - better) / (1 + equal)))
    # 0.05 * 10 / sqrt(0.1 - 0.05²) - 0.6745 * sqrt(0.1 / (0.1 - 0.05²)) = 0.918, and 82.1% are below that
    assert stays(0.05, 100, DISCORDANT, 0.25) == pytest.approx(0.821, abs=0.001)
    assert stayed / studies == pytest.approx(0.821, abs=0.06)
    assert stays(0.05, 100, DISCORDANT, 1.0) == 1.0 and stays(0.2, 100, DISCORDANT, 0.25) == 0.0
    # one-sided 5%: 0.05 * 20 / 0.3122 - 1.6449 * 1.0128 = 1.537
    assert power(0.05, 400, DISCORDANT) == pytest.approx(0.938, abs=0.001)


def test_a_race_on_as_many_questions_as_it_needs_finds_a_gain_as_often_as_promised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selection, "PERMUTATIONS", 200)
    chosen, studies, found = parse_strategy("race"), 60, {0.08: 0, 0.0: 0}
    n = int(questions_needed(chosen, context_of((2, 4, 3), 0)))
    cells = [Cell("v", layer, 1.0, "image") for layer in range(24)]
    for gain in found:
        generator = np.random.default_rng(1)
        for _ in range(studies):
            scores = drawn(generator, 24, n, gain)

            def read(_: int, rung: Rung, scores: Floats = scores) -> tuple[Floats, Floats]:
                asked = slice(rung.questions.start, rung.questions.stop)
                return scores[[cell.layer for cell in rung.cells], asked], np.zeros(len(rung.questions))

            raced = run_strategy(race(StrategyContext(cells, n, vectors=("v",))), n, read)
            best = best_index(raced)
            found[gain] += corrected_p(raced, best) < LEVEL and raced.cells[best].layer * gain == 0
    assert 0.7 <= found[0.08] / studies <= 0.95 and found[0.0] / studies <= 0.1


def test_more_cells_and_smaller_gains_need_more_questions() -> None:
    race_needs = [questions_needed(parse_strategy("race"), context_of((layers, 6, 3), 0)) for layers in (2, 5, 16)]
    assert race_needs == sorted(race_needs) and race_needs[1:] == [319, 362]
    assert questions_needed(parse_strategy("race"), context_of((5, 6, 3), 0), 0.07) > race_needs[1]
    # a grid drops nothing: Connor's number
    assert questions_needed(parse_strategy("grid"), context_of((1, 12, 1), 0), 0.03) == 1343


def test_questions_that_share_few_images_are_too_few_for_a_race() -> None:
    race_on = parse_strategy("race")
    one_each, four_each = np.arange(400), np.repeat(np.arange(100), 4)
    check_questions(race_on, context_of((5, 6, 3), 400, one_each), "it")
    assert finding_probability(race_on, context_of((5, 6, 3), 400, four_each), 0.08) < 0.2
    with pytest.raises(
        UserError, match=r"race finds a gain of \+8.0 points with 1?\d% probability among 90 cells on the 100 im"
    ):
        check_questions(race_on, context_of((5, 6, 3), 400, four_each), "it")
