"""Labels and captions fit: measured on the drawn figure."""

from itertools import pairwise
from typing import Any

import pytest
from matplotlib.figure import Figure

from lmms_steer.plots.heatmap import HeatMap, draw_heatmap
from lmms_steer.plots.ticks import draw_caption, label_numbers


def drawn_labels(axis: Any) -> list[Any]:
    return [label for label in axis.get_ticklabels() if label.get_text()]


@pytest.mark.parametrize(("axis", "rotated"), [("x", False), ("x", True), ("y", False)])
@pytest.mark.parametrize("count", [4, 30, 90])
def test_labels_of_many_layers_do_not_overlap(axis: str, rotated: bool, count: int) -> None:
    figure = Figure(figsize=(4, 3), layout="constrained")
    ax: Any = figure.subplots()
    ax.imshow([[0.0] * count] * count, aspect="auto")
    label_numbers(ax, axis, [str(number) for number in range(count)], 8, rotated)
    figure.draw_without_rendering()
    labels = drawn_labels(getattr(ax, f"{axis}axis"))
    numbers = [int(label.get_text()) for label in labels]
    assert numbers == list(range(0, count, numbers[1])) and (numbers[1] > 1) == (count > 4) and len(numbers) > 3
    boxes = [label.get_window_extent() for label in labels]
    assert not any(first.overlaps(second) for first, second in pairwise(boxes))
    assert [label.get_position()["xy".index(axis)] for label in labels] == numbers


def test_a_heat_map_labels_every_layer_where_there_is_room() -> None:
    layers = tuple(range(30))
    heatmap = HeatMap({(layer, 1.0): 0.0 for layer in layers}, layers, (1.0,))
    shown = {}
    for height in (2, 9):
        ax: Any = Figure(figsize=(4, height)).subplots()
        draw_heatmap(ax, heatmap, 1)
        shown[height] = [label.get_text() for label in drawn_labels(ax.yaxis)]
    assert shown[9] == list(map(str, layers)) and shown[2][:2] == ["0", "3"]


def test_a_caption_stays_inside_a_narrow_figure() -> None:
    text = "gain in points over the baseline [95%]; * Holm-corrected p < 0.05"
    for width, lines in ((3.0, 2), (9.0, 1)):
        figure = Figure(figsize=(width, 2), layout="constrained")
        figure.subplots()
        draw_caption(figure, text, 8)
        figure.draw_without_rendering()
        caption: Any = figure._supxlabel  # type: ignore[attr-defined]
        assert len(caption.get_text().splitlines()) == lines and caption.get_text().replace("\n", " ") == text
        box = caption.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0
