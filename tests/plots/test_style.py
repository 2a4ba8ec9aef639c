"""The common style of all figures."""

import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot, rcParams
from matplotlib.figure import Figure

from lmms_steer import UserError
from lmms_steer.plots.lines import draw_interval
from lmms_steer.plots.style import (
    ROLE_COLOURS,
    ROLE_MARKERS,
    check_figure_suffix,
    embedded_svg,
    figure_maker,
    figure_style,
    literal_text,
    save_figure,
)


def test_style_applies_inside_a_block_or_function_only() -> None:
    @figure_style()
    def has_top_spine() -> bool:
        return bool(rcParams["axes.spines.top"])

    assert rcParams["axes.spines.top"] and not has_top_spine()
    with figure_style():
        assert not rcParams["axes.spines.top"]
    assert rcParams["axes.spines.top"]


def test_every_role_has_its_own_colour_and_marker() -> None:
    assert ROLE_COLOURS.keys() == ROLE_MARKERS.keys()
    assert len(set(ROLE_COLOURS.values())) == len(set(ROLE_MARKERS.values())) == len(ROLE_COLOURS)
    axes: Any = Figure().subplots()
    draw_interval(axes, 1, 0.5, 0.0, 2.0, "control", filled=False)
    interval, mark = axes.lines
    assert interval.get_xydata().tolist() == [[0.0, 1.0], [2.0, 1.0]]
    assert (mark.get_marker(), mark.get_markerfacecolor()) == (ROLE_MARKERS["control"], "white")
    assert interval.get_color() == mark.get_markeredgecolor() == ROLE_COLOURS["control"]


def test_figures_are_saved_by_suffix_or_refused(tmp_path: Path) -> None:
    maker = figure_maker()
    paths = [tmp_path / f"below/x{suffix}" for suffix in (".png", ".svg", ".pdf")]
    assert save_figure(maker.figure(), *paths) == paths[-1]
    assert [path.read_bytes()[:4] for path in paths] == [b"\x89PNG", b"<?xm", b"%PDF"]
    assert pyplot.get_fignums() == [], "a notebook shows those that are open"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*x.png"):
        save_figure(maker.figure(), tmp_path / "file/x.png")
    with pytest.raises(UserError, match="x.gif': expected a file that ends in .png, .svg or .pdf"):
        check_figure_suffix(tmp_path / "x.gif")


@figure_style()
def drawing(name: str) -> str:
    figure = Figure()
    figure.subplots().set_title(literal_text("a$b$"))
    return embedded_svg(figure, name)


def test_embedded_drawings_are_repeatable_and_share_no_ids() -> None:
    one, other = drawing("one"), drawing("other")
    assert one == drawing("one") and one.startswith("<svg") and "a$b$" in one
    ids, other_ids = (set(re.findall(r' id="([^"]*)"', text)) for text in (one, other))
    assert ids and not ids & other_ids
