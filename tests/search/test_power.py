"""What a search says it can find, before and after it measures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmms_steer.search.chosen_strategy import parse_strategy
from lmms_steer.search.plan import Cell
from lmms_steer.search.power import measured_power_line, planned_power_lines
from lmms_steer.search.results import SearchResult
from lmms_steer.search.strategies import StrategyContext
from tests.helpers.searches import search_into
from tests.search.test_results import minimal


def context(n: int, layers: int = 4) -> StrategyContext:
    cells = [
        Cell(vector, layer, alpha, "image")
        for vector in ("v", "v,control=random:0")
        for layer in range(layers)
        for alpha in (0.5, 1.0, 1.5)
    ]
    return StrategyContext(cells, n, vectors=("v", "v,control=random:0"), layers=range(layers), alphas=(0.5, 1.5))


def planned(strategy: str, given: StrategyContext) -> list[str]:
    return list(planned_power_lines(parse_strategy(strategy), given))


def test_the_plan_counts_the_cells_of_one_vector_and_warns_of_gains_that_it_would_miss() -> None:
    power, warning = planned("grid", context(500))
    assert power.startswith(
        "with 500 questions and 12 cells of each vector, gains from +4.9 points on are found in 80% of searches"
    )
    assert "assuming that steering changes 10.0% of the answers" in power
    assert warning == "WARNING: gains of +3.0 points, such as the paper's, need about 1343 questions, or fewer cells"
    _, both = planned("grid", context(100))
    assert "gains of +3.0 and +7.0 points" in both and "about 1343 and 245 questions" in both
    assert len(planned("grid", context(5000))) == 1, "no warning where even +3 points are found"


def test_the_plan_of_a_race_counts_the_finalists_and_the_questions_that_are_left_to_test_on() -> None:
    (floor, power, *_) = planned("race", context(1200))
    assert floor == "race needs 251 questions for 12 cells, to find a gain of +8.0 points with 80% probability"
    assert "with 800 questions and 4 cells" in power
    images = np.repeat(np.arange(300), 4)
    (power, *_) = planned("grid", replace(context(1200), image_of=images))
    assert "with 300 images and 12 cells" in power


def test_a_finished_search_says_what_it_could_have_found() -> None:
    vector = SearchResult.from_json(minimal()).vectors["v"]
    assert measured_power_line(vector, None) == "", "a result of an older version does not say how much changed"
    line = measured_power_line(replace(vector, discordant=0.3, counted_on=400, finalists=6), None)
    assert line.startswith("its cells change 30.0% of the answers between right and wrong (median): gains from +")
    # at 6 cells the one-sided critical value is 2.394: (2.394 sqrt(0.3) + 0.8416 sqrt(0.3 - 0.0879²))² / 0.0879² = 400
    assert line.endswith("gains from +8.8 points on are found in 80% of such searches")
    assert "even a large gain is missed" in measured_power_line(
        replace(vector, discordant=0.3, counted_on=400, finalists=6), 10
    )


@pytest.mark.slow
def test_a_dry_run_says_what_would_be_measured_and_writes_nothing(tmp_path: Path) -> None:
    lines = search_into(tmp_path / "study", dry_run=True)
    assert lines[0] == "24 cells x 64 questions" and "at most 1536 answers of tiny_counting_select" in lines[1]
    assert "1 choice with every image grey (--no-blank-image leaves this out): 64 answers" in lines[2]
    assert (
        "with 64 questions and 12 cells of each vector, even a large gain is missed in more than 20% of searches"
        in lines[3]
    )
    assert lines[-1] == "nothing was measured (--dry-run)" and not (tmp_path / "study").exists()


@pytest.mark.slow
def test_a_dry_run_counts_the_answers_of_the_chosen_cells(tmp_path: Path) -> None:
    def after(**options: Any) -> list[str]:
        lines = search_into(tmp_path, dry_run=True, **options)
        return [line.removeprefix("after that, ") for line in lines if line.startswith("after that, ")]

    grey, confirmed = after(confirm="tiny_counting", vectors=("counting", "spatial"), controls=2)
    assert grey.startswith("2 choices with every image grey") and grey.endswith(": 128 answers")
    # two vectors, each with two controls
    counted = "on all 1000 questions of tiny_counting, --limit or not: 6000 answers"
    assert confirmed == f"6 choices, those of controls too, {counted}"
    assert after(blank_image=False) == [] == after(model_args="pretrained=tiny-paligemma2,image=blank")
