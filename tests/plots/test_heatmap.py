"""The heat map of a search: colours, text on them, and the frame of the chosen cell."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lmms_steer.plots.heatmap import HeatMap, colour_limit, draw_heatmap, gain_colormap, text_colour
from lmms_steer.plots.style import figure_maker, figure_style
from lmms_steer.search.figures import _heatmap
from lmms_steer.search.plan import Cell
from lmms_steer.search.selection import ScoreGrid


def test_colour_limit_is_symmetric_and_ignores_ruinous_alphas() -> None:
    assert colour_limit([0.1, -0.2]) == colour_limit([float("nan")]) == colour_limit([]) == 1
    assert colour_limit([6.0, *[0.5] * 20]) == 6 and colour_limit([-6.0, *[0.5] * 20]) == 1
    ruined = [-70.0] * 10 + [-3.0, 2.0] * 30
    assert colour_limit(ruined) == 3
    image = draw_heatmap(Figure().subplots(), HeatMap({(0, 1.0): -9.0, (0, 2.0): 4.0}, (0,), (1.0, 2.0)), 4)
    assert (image.norm.vmin, image.norm.vmax) == (-4, 4)
    assert image.cmap(0.5)[:3] == pytest.approx((1, 1, 1), abs=0.01)


def _contrast(*colours: Sequence[float]) -> float:
    def brightness(colour: Sequence[float]) -> float:
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05

    shades = [brightness(colour) for colour in colours]
    return max(shades) / min(shades)


def test_text_is_readable_on_every_colour() -> None:
    for share in (number / 100 for number in range(-100, 101)):
        assert _contrast(gain_colormap()(0.5 + share / 2), to_rgb(text_colour(share, 1.0))) > 4, share


def test_dots_of_dropped_cells_can_be_seen_on_every_colour() -> None:
    cells = {(0, float(number)): number - 4.0 for number in range(9)}
    axes: Any = Figure().subplots()
    alphas = tuple(alpha for _, alpha in cells)
    image = draw_heatmap(axes, HeatMap(cells, (0,), alphas, dropped=frozenset(cells)), 2.0)
    dots = {int(line.get_xdata()[0]): to_rgb(line.get_color()) for line in axes.lines}
    assert len(dots) == 9
    for (_, alpha), gain in cells.items():
        assert _contrast(image.cmap(image.norm(gain)), dots[int(alpha)]) > 3, gain


@pytest.mark.parametrize("alphas", [(0.5, 1.0), tuple(number / 20 for number in range(1, 17))])
def test_chosen_cell_is_framed_in_a_grid_and_among_points(alphas: tuple[float, ...]) -> None:
    continuous = len(alphas) > 2
    layers = (3,) if continuous else (3, 7)
    heatmap = HeatMap(
        {(layer, alpha): 0.0 for layer in layers for alpha in alphas}, layers, alphas, best=(3, alphas[1])
    )
    axes: Any = Figure().subplots()
    draw_heatmap(axes, heatmap, 1)
    assert heatmap.continuous == continuous
    if continuous:
        assert [line.get_xydata().tolist() for line in axes.lines] == [[[alphas[1], 3]]]
    else:
        assert [(frame.get_center().tolist(), frame.get_fill()) for frame in axes.patches] == [([1, 0], False)]


@pytest.mark.parametrize("scale", [0.001, 1.0, 100.0])
def test_cells_of_a_continuous_alpha_are_whole_and_dotted_where_dropped(scale: float) -> None:
    layers = (8, 16, 24)
    cells = {(layers[number % 3], scale * (1 + number / 18)): 0.0 for number in range(18)}
    alphas = tuple(alpha for _, alpha in cells)
    heatmap = HeatMap(cells, layers, alphas, best=(8, scale), dropped=frozenset(list(cells)[9:]))
    figure = Figure(figsize=(5, 2), layout="constrained")
    axes: Any = figure.subplots()
    marks = draw_heatmap(axes, heatmap, 1)
    figure.draw_without_rendering()
    dots = {(line.get_ydata()[0], line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "."}
    assert dots == heatmap.dropped
    (frame,) = (line for line in axes.lines if line.get_marker() == "s")
    places, inside = axes.transData.transform(marks.get_offsets()), axes.get_window_extent()
    half = figure.dpi / 72 * (frame.get_markersize() + frame.get_markeredgewidth()) / 2
    assert (places.min(0) - half >= inside.min).all() and (places.max(0) + half <= inside.max).all()
    assert np.ptp(places[:, 0]) > inside.width / 2


def test_the_title_of_a_narrow_map_is_whole() -> None:
    rng = np.random.default_rng(0)
    cells = [Cell("tiny-gemma2/spatial/mean_shift", 3, alpha, "image") for alpha in (0.25, 0.5, 1.0, 2.0)]
    grid = ScoreGrid(cells, rng.integers(0, 2, (4, 60)).astype(float), np.zeros(60))
    best = SimpleNamespace(layer=3, alpha=0.5, tokens="image", gain=0.033)
    controls = {f"random:{seed}": SimpleNamespace(gain=0.01 * seed) for seed in range(2)}
    for winner in (True, False):
        result: Any = SimpleNamespace(best=best, controls=controls, winner=winner, p_corrected=0.5264)
        with figure_style():
            figure = _heatmap(figure_maker(), cells[0].vector, grid, result)
            figure.canvas.draw()
            title = figure._suptitle.get_window_extent()
        assert figure.bbox.x0 <= title.x0 and title.x1 <= figure.bbox.x1
        text = " ".join(figure._suptitle.get_text().split())
        verdict = "" if winner else ", no winner, p = 0.526"
        assert text.endswith(f"best +3.3 points (framed){verdict}; best of 2 random: +1.0")


def test_alphas_that_a_strategy_proposes_are_drawn_on_a_true_axis() -> None:
    # eight trials of tpe, two of them at nearly the same alpha
    alphas = (0.1, 0.2, 0.3, 0.55, 0.5501, 0.7, 0.8, 0.9)
    cells = [Cell("v", number % 3, alpha, "image") for number, alpha in enumerate(alphas)]
    grid = ScoreGrid(cells, np.ones((8, 40)), np.zeros(40))
    best = SimpleNamespace(layer=0, alpha=0.1, tokens="image", gain=1.0)
    result: Any = SimpleNamespace(best=best, controls={}, winner=True)
    figure = _heatmap(figure_maker(), "v", grid, result)
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(set(labels)) == len(labels)
    (points,) = figure.axes[0].collections
    assert sorted(points.get_offsets().tolist()) == sorted([cell.alpha, cell.layer] for cell in cells)


def test_a_wide_range_of_alphas_is_drawn_on_a_logarithmic_axis() -> None:
    # KL budgets at two layers
    cells = {(1, 0.19): 0.0, (1, 0.35): 0.0, (3, 0.31): 0.0, (3, 14.1): 0.0}
    heatmap = HeatMap(cells, (1, 3), tuple(sorted(alpha for _, alpha in cells)))
    figure = Figure(layout="constrained")
    axes: Any = figure.subplots()
    draw_heatmap(axes, heatmap, 1)
    figure.draw_without_rendering()
    assert axes.get_xscale() == "log"
    low, high = axes.get_xlim()
    shown = [tick.get_text() for tick in axes.get_xticklabels() if low <= tick.get_position()[0] <= high]
    assert shown == ["0.2", "0.5", "1", "2", "5", "10"]
    assert not any(label.get_text() for label in axes.get_xticklabels(minor=True))
