"""Runs with blank images: beside the same system that saw them, compared with each other and with no run that did."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from lmms_steer.comparison.api import compare
from lmms_steer.comparison.leaderboard import LeaderboardRow, build_leaderboard
from lmms_steer.comparison.provenance import run_provenance
from lmms_steer.comparison.records import leaderboard_records
from lmms_steer.comparison.row_texts import format_blank, format_gain, format_holm, format_score
from lmms_steer.comparison.systems import read_comparison
from lmms_steer.comparison.tables import TerminalTable, text_table
from lmms_steer.statistics.paired import task_effects
from tests.helpers.browser import BROWSER, browser
from tests.helpers.runs import BASE, STEERED, write_run

SEEING = {"model_args": "pretrained=tiny"}
BLIND = [1.0] * 50 + [0.0] * 50
BLIND_STEERED = [1.0] * 56 + [0.0] * 44
"""Scores with grey images: steering gains 6 of 100, as against 10 with the images."""


def write_blank_run(folder: Path, scores: list[float], spec: str, args: str = "", **steering: Any) -> None:
    """Write a run with `image=blank`, as lmms-eval writes it."""
    record: dict[str, Any] = {
        "model": "tiny",
        "spec": spec,
        "sha256": "5" * 64 if spec else None,
        "vectors": [],
        "image": "blank",
        **steering,
    }
    config = {"model_args": f"pretrained=tiny,image=blank{args}"}
    write_run(folder, {"a": scores}, spec=None, config=config, results={"steering": record})


def rows_of(folder: Path, baseline: str | None = None) -> dict[str, LeaderboardRow]:
    rows = build_leaderboard(read_comparison([str(folder)], baseline=baseline).systems, ())
    return {row.system: row for row in rows}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A baseline and a steered run, each with the images and with grey ones."""
    write_run(tmp_path / "baseline", {"a": BASE}, config=SEEING)
    write_run(tmp_path / "steered", {"a": STEERED}, spec="vector=v,layer=1", config=SEEING)
    write_blank_run(tmp_path / "dark", BLIND, "")
    # what was measured does not make another system
    measured = {"a": {"nats": 0.2, "questions": 64}}
    write_blank_run(tmp_path / "steered-blank", BLIND_STEERED, "vector=v,layer=1", divergence=measured)
    return tmp_path


def test_a_blank_run_stands_beside_the_same_system_and_gains_over_the_blank_baseline(runs: Path) -> None:
    rows = rows_of(runs)
    assert list(rows) == ["baseline", "steered"], "no rows of their own, and no refusals"
    steered, blank = rows["steered"], rows["steered"].blank
    assert steered.gain == pytest.approx(0.1) and blank is not None and not blank.refused
    assert rows["baseline"].blank is not None and rows["baseline"].blank.score == 0.5
    # 6 of 100 are fixed and none is broken: the same interval as of these numbers by themselves
    changes = [[after - before for after, before in zip(BLIND_STEERED, BLIND, strict=True)]]
    effect = task_effects(np.array(changes), None)
    assert (blank.score, blank.gain, blank.low, blank.high) == (0.56, 0.06, effect.low[0], effect.high[0])
    titles, cells = text_table([*rows.values()])
    shown = dict(zip(titles, cells[1], strict=True))["blank images"]
    assert shown == f"56.0, +6.0 [{100 * effect.low[0]:+.1f}, {100 * effect.high[0]:+.1f}]"
    assert dict(zip(titles, cells[0], strict=True))["blank images"] == "50.0"
    (record,) = leaderboard_records([steered])
    assert (record.blank_score, record.blank_gain) == (0.56, 0.06)
    # p-values of the table are those of the runs that saw the images
    assert steered.p_holm == steered.p


def test_each_of_two_equal_systems_has_its_own_blank_run(runs: Path) -> None:
    """A search's two choices may be the same cell."""
    write_run(runs / "again", {"a": STEERED}, spec="vector=v,layer=1", config=SEEING)
    write_blank_run(runs / "again-blank", BLIND, "vector=v,layer=1")
    rows = rows_of(runs)
    assert list(rows) == ["baseline", "again", "steered"]
    scores = {name: row.blank.score for name, row in rows.items() if row.blank}
    assert scores == {"baseline": 0.5, "again": 0.5, "steered": 0.56}
    folders = [
        f"{name}={runs / name}" for name in ("baseline", "dark", "again", "steered", "steered-blank", "again-blank")
    ]
    same = build_leaderboard(read_comparison(folders).systems)
    assert {row.system: row.blank.score for row in same if row.blank} == scores


def test_a_gain_that_is_there_without_the_images_is_a_warning(runs: Path) -> None:
    board = compare(runs)
    assert "WARNING: a: steered gains +10.0 with the images and +6.0 with grey ones" in board.warnings
    write_blank_run(runs / "steered-blank", BLIND, "vector=v,layer=1")
    assert not any("grey" in line for line in compare(runs).warnings)


def test_a_blank_run_of_another_system_is_refused_as_before(runs: Path) -> None:
    write_blank_run(runs / "other", BLIND, "vector=w,layer=1")
    write_blank_run(runs / "prefixed", BLIND, "vector=v,layer=1", args=",prompt_prefix=look")
    write_blank_run(runs / "contrasted", BLIND, "vector=v,layer=1", contrast={"name": "vcd", "control": False})
    rows = rows_of(runs)
    for name in ("other", "prefixed", "contrasted"):
        row = rows[f"{name}, blank image"]
        assert row.role == "control" and "image blank, the baseline's not set" in row.refused


def test_without_the_baseline_s_blank_run_there_is_a_score_and_no_gain(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE}, config=SEEING)
    write_run(tmp_path / "steered", {"a": STEERED}, spec="vector=v,layer=1", config=SEEING)
    write_blank_run(tmp_path / "dark", BLIND_STEERED, "vector=v,layer=1")
    rows = rows_of(tmp_path)
    assert rows["baseline"].blank is None and rows["steered"].gain == pytest.approx(0.1)
    assert "56.0" in text_table([*rows.values()])[1][1]


def test_with_a_blank_baseline_blank_runs_are_the_systems(runs: Path) -> None:
    systems = read_comparison([str(runs)], baseline="dark").systems
    assert next(iter(systems)) == "dark, blank image" and systems["dark, blank image"].role == "baseline"
    rows = rows_of(runs, baseline="dark")
    assert rows["steered, blank image"].gain == pytest.approx(0.06) and not rows["steered, blank image"].refused
    assert "image not set, the baseline's blank" in rows["steered"].refused
    specs = {name: run_provenance(system.tasks["a"]).spec for name, system in systems.items()}
    assert specs["dark, blank image"] == "image=blank"
    assert specs["steered, blank image"] == "vector=v,layer=1, image=blank"


@pytest.mark.skipif(not BROWSER, reason="no Chromium: apt-get install chromium")
def test_the_page_has_the_column_and_the_commands_of_both_runs(runs: Path, tmp_path: Path) -> None:
    compare(runs).write(html=tmp_path / "board.html", pictures="none")
    with browser(tmp_path / "profile") as shown:
        shown.open(tmp_path / "board.html")
        table = "BY_ID('board-table')"
        heads = shown.run(f"[...{table}.tHead.rows[0].cells].map((cell) => cell.textContent)")
        cells = shown.run(f"[...{table}.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent))")
        place = heads.index("blank images")
        titles, table_cells = text_table(compare(runs).rows)
        expected = [row[titles.index("blank images")].replace(", ", "", 1) for row in table_cells]
        assert place == heads.index("gain [95%]") + 1 and [row[place] for row in cells] == expected
        shown.run(f"{table}.tBodies[0].rows[1].querySelector('button.made').click()")
        made = shown.run("BY_ID('made').textContent")
        assert "steered, blank image on a" in made and "vector=v,layer=1, image=blank" in made
        answers = shown.run("[...BY_ID('samples-system').options].map((one) => one.textContent)")
        assert any("steered, blank image" in one for one in answers)


@pytest.mark.parametrize(("width", "left_out"), [(60, 5), (95, 4), (400, 0)])
def test_a_narrow_terminal_leaves_columns_out_and_shortens_no_number(runs: Path, width: int, left_out: int) -> None:
    rows = list(rows_of(runs).values())
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(TerminalTable(rows))
    text = " ".join(console.export_text().split())
    for cell in (format_gain(rows[1]), format_holm(rows[1]), format_score(rows[1])):
        assert cell in text
    named = ("p", "time", "unparsed", "fixed / broken", "blank images")[:left_out]
    assert (f"too narrow for {', '.join(named)}: --html, --csv and a pipe have all columns" in text) == bool(named)
    assert (format_blank(rows[1]) in text) == ("blank images" not in named)
    assert "…" not in text
