"""`lmms-steer plot`: figures of runs and of searches."""

import math
import warnings
from pathlib import Path

import pytest
from matplotlib.text import Text

from lmms_steer import UserError
from lmms_steer.comparison import figures
from lmms_steer.comparison.api import compare
from lmms_steer.comparison.command import draw_comparison, run_comparison
from lmms_steer.comparison.figures import gains_figure
from lmms_steer.comparison.studies import SearchMap, read_maps
from lmms_steer.plots import glyphs
from lmms_steer.plots.style import save_figure
from tests.helpers.runs import BASE, STEERED, write_chosen_runs, write_run, write_study


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "suffix"), [("table", "svg"), ("gains", "pdf"), ("gains", "png")])
def test_gains_are_drawn_in_every_format(tmp_path: Path, kind: str, suffix: str) -> None:
    write_run(tmp_path / "runs/baseline", {"a$b": BASE, "c": BASE})
    write_run(tmp_path / "runs/s", {"a$b": STEERED, "c": [2.5 * score for score in BASE]})
    out = tmp_path / f"p.{suffix}"
    assert draw_comparison([str(tmp_path / "runs")], out, kind) == [str(out)]
    start = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}[suffix]
    assert out.read_bytes().startswith(start)
    if suffix == "svg":
        assert "+10.0" in out.read_text()


def test_runs_are_drawn_as_gains_by_default(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/baseline", {"a": BASE})
    write_run(tmp_path / "runs/s", {"a": STEERED})
    runs = [str(tmp_path / "runs")]
    texts = {
        kind: Path(draw_comparison(runs, tmp_path / f"{kind}.svg", kind)[-1]).read_text()
        for kind in (None, "gains", "table")
    }
    interval = "gain in points over the baseline [95%]; filled"
    assert [interval in text for text in texts.values()] == [True, True, False]
    with pytest.raises(UserError, match="give --kind gains, table or ranks for the runs, or maps"):
        draw_comparison(runs, tmp_path / "p.svg", studies=[tmp_path])


def test_long_names_of_runs_and_tasks_are_inside_the_figure(tmp_path: Path) -> None:
    task = "my_benchmark_of_spatial_relations_between_many_objects"
    run = "my-model-7b-instruct__spatial-mean_shift_L2_a0.5_image_58451123"
    write_run(tmp_path / "baseline", {task: BASE})
    write_run(tmp_path / run, {task: STEERED}, spec="vector=v")
    figure = gains_figure(compare(str(tmp_path)).rows)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert axes.get_window_extent().width > figure.bbox.width / 4
    shown = [axes.title, *axes.get_yticklabels()]
    assert [label.get_text().replace("\n", "") for label in shown] == [f"{task} (n = {len(BASE)})", run]
    for box in (label.get_window_extent() for label in shown):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0 and box.y1 <= figure.bbox.height


def test_names_that_no_font_has_are_inside_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyphs, "font_with", lambda _: None)
    write_run(tmp_path / "baseline", {"a": BASE, "b": BASE, "c": BASE})
    for name in ("基线模型图像计数向量层十六强度一百二十图像标记测试", "W" * 37):
        write_run(tmp_path / name, {"a": STEERED, "b": STEERED, "c": STEERED}, spec="vector=v")
    figure = gains_figure(compare(str(tmp_path)).rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_figure(figure, tmp_path / "x.png")
        figure.draw_without_rendering()
    panels = sorted((axes.get_window_extent() for axes in figure.axes), key=lambda box: box.x0)
    labels = [[label.get_window_extent() for label in axes.get_yticklabels()] for axes in figure.axes]
    assert all(box.x0 >= 0 for box in labels[0]) and panels[-1].x1 <= figure.bbox.width
    assert all(box.x0 > panel.x1 for panel, after in zip(panels, labels[1:], strict=False) for box in after)
    assert all(box.y0 >= 0 and box.y1 <= figure.bbox.height for boxes in labels for box in boxes)


def test_gains_name_their_unit_and_the_roles_of_their_markers(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE, "b": [3 * score for score in BASE]})
    write_run(tmp_path / "s", {"a": STEERED}, spec="vector=v")
    write_run(tmp_path / "r", {"a": STEERED, "b": [3 * score for score in STEERED]}, spec="vector=v,control=random:0")
    caption = gains_figure(compare(str(tmp_path)).rows).get_supxlabel().replace("\n", " ")
    assert caption.startswith("gain, of shares in points, over the baseline [95%]; filled")
    assert "circle: steered" in caption and "diamond: control" in caption and "square" not in caption


def test_a_panel_of_many_systems_has_no_empty_rows(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE})
    for number in range(20):
        write_run(tmp_path / f"s{number}", {"a": STEERED}, spec=f"vector=v,layer={number}")
    (axes,) = gains_figure(compare(str(tmp_path)).rows).axes
    bottom, top = axes.get_ylim()
    assert -1 <= top < 0 and 19 < bottom <= 20


def test_plot_prints_the_warnings_of_a_comparison(tmp_path: Path) -> None:
    runs = write_chosen_runs(tmp_path / "runs", "a", {"chosen_on": "a"})
    write_run(tmp_path / "runs/other", {"b": STEERED})
    *lines, path = draw_comparison([str(runs)], tmp_path / "p.svg")
    assert path == str(tmp_path / "p.svg")
    assert lines == [str(line) for line in run_comparison([str(runs)]) if isinstance(line, str)]
    assert "WARNING: a:" in lines[-1] and "not compared: other on b" in lines[0]


def test_plots_that_cannot_be_drawn_are_refused_in_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "baseline", {"a": BASE})
    with pytest.raises(UserError, match="no run but the baseline"):
        draw_comparison([str(tmp_path)], tmp_path / "p.png")
    with pytest.raises(UserError, match="ends in .png, .svg or .pdf"):
        draw_comparison([str(tmp_path)], tmp_path / "p.gif")
    with pytest.raises(UserError, match="unknown kind of plot 'tabel': did you mean 'table'"):
        draw_comparison([str(tmp_path)], tmp_path / "p.png", "tabel")
    with pytest.raises(UserError, match="give --study DIR, or folders of runs"):
        draw_comparison([], tmp_path / "p.png")


def test_best_cell_is_the_search_s_choice_and_never_a_dropped_cell(tmp_path: Path) -> None:
    gains = {(0, 0.5): 0.3, (2, 2.0): 0.1, (3, 1.0): 0.1, (4, 1.0): 0.1 + 1e-16}
    assert gains[4, 1.0] > gains[3, 1.0], "by rounding"
    (searched,) = read_maps([write_study(tmp_path, gains, dropped=[(0, 0.5)])])
    assert searched.best == (3, 1.0) and searched.dropped == {(0, 0.5)}
    text = Path(draw_comparison([], tmp_path / "maps.svg", studies=[tmp_path])[-1]).read_text()
    assert "image tokens (n = 50)" in text


def test_a_cell_s_damage_is_read_where_the_study_has_it(tmp_path: Path) -> None:
    gains, kl = {(0, 0.5): 0.1, (0, 1.0): 0.2, (1, 1.0): 0.0}, {(0, 0.5): 0.25, (0, 1.0): math.nan, (1, 1.0): math.inf}
    (searched,) = read_maps([write_study(tmp_path / "new", gains, kl=kl)])
    assert searched.damage == {(0, 0.5): 0.25} and set(searched.cells) == set(gains)
    (older,) = read_maps([write_study(tmp_path / "old", gains)])
    assert older.damage == {} and older.cells == searched.cells


def test_studies_in_folders_of_equal_names_stay_apart(tmp_path: Path) -> None:
    for number, task in enumerate(("spatial", "counting")):
        write_study(tmp_path / f"search/tiny/{task}/concept-mean_shift", {(0, 1.0): number / 100})
    maps = read_maps([tmp_path / "search", tmp_path / "search/tiny/spatial"])
    assert [(one.study, one.cells) for one in maps] == [
        ("counting/concept-mean_shift", {(0, 1.0): 0.01}),
        ("spatial/concept-mean_shift", {(0, 1.0): 0.0}),
    ]
    text = Path(draw_comparison([], tmp_path / "maps.svg", studies=[tmp_path])[-1]).read_text()
    assert "counting/concept-mean_shift" in text and "spatial/concept-mean_shift" in text
    assert read_maps([tmp_path / "search/tiny/spatial"])[0].study == "concept-mean_shift"


def test_folders_that_are_no_study_are_refused_in_one_line(tmp_path: Path) -> None:
    write_run(tmp_path / "runs/baseline", {"a": [1.0, 0.0]})
    (tmp_path / "study").mkdir()
    with pytest.raises(UserError, match=r"no study in .*there is no cells.parquet"):
        list(run_comparison([str(tmp_path / "runs")], studies=[tmp_path / "study"], html=tmp_path / "x.html"))
    (tmp_path / "study/cells.parquet").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"cells.parquet' cannot be read as a study's cells"):
        list(run_comparison([str(tmp_path / "runs")], studies=[tmp_path / "study"], html=tmp_path / "x.html"))
    with pytest.raises(UserError, match="unknown --pictures 'our'"):
        list(run_comparison([str(tmp_path / "runs")], pictures="our"))


def test_titles_of_maps_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    places = {(layer, alpha): 0.01 for layer in (1, 2) for alpha in (30.0, 60.0, 120.0)}
    maps = [
        SearchMap(
            study="s", task="a", vector="counting/sae", tokens=tokens, n=600, layers=(1, 2), alphas=(30.0, 60.0, 120.0),
            cells=places, damage={}, best=None, limit=1.0, dropped=frozenset({(1, 30.0)}),
        )
        for tokens in ("image", "text")
    ]  # fmt: skip
    monkeypatch.setattr(figures, "read_maps", lambda _: maps)
    figure = figures.maps_figure([])
    figure.draw_without_rendering()
    shown = [one for one in figure.findobj(Text) if "n = 600" in one.get_text()]
    left, right = sorted((one.get_window_extent() for one in shown), key=lambda box: box.x0)
    assert left.x1 < right.x0 and right.x1 < figure.axes[-1].get_window_extent().x0
    assert figure.get_supxlabel() == "dotted: dropped before all questions were asked"
