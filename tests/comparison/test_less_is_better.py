"""Where less is better, an improvement has the colour of one: in the terminal, on the page and in a figure."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from lmms_steer.comparison.api import Leaderboard, compare
from lmms_steer.comparison.figures import gains_figure
from lmms_steer.comparison.row_texts import format_gain
from lmms_steer.comparison.tables import TerminalTable, caption
from tests.helpers.browser import BROWSER, browser
from tests.helpers.runs import write_run

GREEN, RED = "\x1b[32m", "\x1b[31m"


@pytest.fixture
def compared(tmp_path: Path) -> Leaderboard:
    less = {"higher_is_better": {"hallucinated": {"acc": False}}}
    for name, count in (("baseline", 60), ("fewer", 30), ("more", 90)):
        scores = [1.0] * count + [0.0] * (100 - count)
        write_run(tmp_path / name, {"hallucinated": scores}, spec="vector=v" * (count != 60), results=less)
    return compare(str(tmp_path))


def test_improvements_are_green_in_the_terminal_and_in_the_figure(compared: Leaderboard) -> None:
    gains = {row.system: row.gain for row in compared.rows}
    assert gains["fewer"] == pytest.approx(-0.3) and gains["more"] == pytest.approx(0.3)
    out = io.StringIO()
    Console(file=out, force_terminal=True, color_system="standard", width=200).print(TerminalTable(compared.rows))
    lines = {name: line for line in out.getvalue().splitlines() for name in ("fewer", "more") if name in line}
    assert GREEN in lines["fewer"] and RED not in lines["fewer"]
    assert RED in lines["more"] and GREEN not in lines["more"]
    (axes,) = gains_figure(compared.rows, "table").axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    shades = dict(zip(names, axes.images[0].get_array().tolist(), strict=True))
    assert shades["fewer"] == pytest.approx([30.0]) and shades["more"] == pytest.approx([-30.0])


@pytest.mark.skipif(not BROWSER, reason="no Chromium: apt-get install chromium")
def test_improvements_are_good_news_on_the_page(compared: Leaderboard, tmp_path: Path) -> None:
    compared.write(html=tmp_path / "x.html", pictures="none")
    with browser(tmp_path / "profile") as shown:
        shown.open(tmp_path / "x.html")
        classes = shown.run(
            "[...BY_ID('board-table').tBodies[0].rows].map((row) =>"
            " [row.cells[0].textContent, ['up', 'down'].find((name) => row.querySelector('.' + name)) ?? ''])"
        )
    assert dict(classes) == {"baseline": "", "fewer": "up", "more": "down"}


def test_a_perplexity_is_logged_as_log_likelihoods_of_which_more_is_better(tmp_path: Path) -> None:
    metrics = [{"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}]
    results = {
        "configs": {"lambada": {"metric_list": metrics, "output_type": "loglikelihood"}},
        "higher_is_better": {"lambada": {"perplexity": False}},
    }
    for name, loss in (("baseline", 3.9), ("ruined", 8.4)):
        logged = {"score": None, "acc": None, "perplexity": -loss}
        write_run(
            tmp_path / name, {"lambada": [0.0] * 20}, sample=logged, spec="vector=v" * (loss > 4), results=results
        )
    (row,) = [row for row in compare(str(tmp_path)).rows if row.system == "ruined"]
    assert row.gain == pytest.approx(-4.5) and (row.fixed, row.broken) == (0, 20)
    assert {samples.metric for samples in row.samples} == {"log_likelihood"}
    assert caption([row]).startswith("Scores as the tasks count them, and gains over the baseline")
    assert format_gain(row).startswith("-4.500 [-4.9")


def test_scores_of_a_run_that_is_not_compared_do_not_change_the_unit_of_the_others(tmp_path: Path) -> None:
    shares = [1.0] * 60 + [0.0] * 40
    write_run(tmp_path / "baseline", {"a": shares})
    write_run(tmp_path / "steered", {"a": shares}, spec="vector=v")
    write_run(tmp_path / "fewer", {"a": [5.0] * 50}, spec="vector=v,layer=1")
    rows = {row.system: row for row in compare(str(tmp_path)).rows}
    assert rows["fewer"].refused and {name: row.scale for name, row in rows.items()} == {
        **{"baseline": 100.0, "steered": 100.0},
        "fewer": 1.0,
    }


def test_tasks_in_different_units_have_no_mean(tmp_path: Path) -> None:
    results = {"group_subtasks": {"both": ["a", "b"]}}
    for name, spec in (("baseline", ""), ("steered", "vector=v")):
        write_run(tmp_path / name, {"a": [1.0] * 20, "b": [7.0] * 20}, spec=spec, results=results)
    assert {row.task for row in compare(str(tmp_path)).rows} == {"a", "b"}
