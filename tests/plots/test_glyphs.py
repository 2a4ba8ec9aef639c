"""Names in scripts that matplotlib's font lacks: another font draws them, or they are escaped with one note."""

import logging
import warnings
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from lmms_steer.plots import glyphs
from lmms_steer.plots.glyphs import choose_fonts, drawn_length, font_with, missing_characters
from lmms_steer.plots.style import embedded_svg, figure_maker, figure_style, save_figure, wrapped_name

UNKNOWN = "空間 स्थान 🚀"


@figure_style()
def draw(*paths: Path) -> Path:
    figure, axes = figure_maker().subplots()
    axes.set_title(f"title {UNKNOWN}")
    axes.set_yticks([0, 1], ["naïve", f"tick {UNKNOWN}"])
    axes.plot([0, 1], [0, 1], label=f"label {UNKNOWN}")
    axes.legend()
    return save_figure(figure, *paths)


def test_characters_that_no_font_has_are_escaped_with_one_note(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glyphs, "font_with", lambda _: None)
    caplog.set_level(logging.INFO, "lmms_steer")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw(tmp_path / "x.pdf", tmp_path / "x.svg", tmp_path / "x.png") == tmp_path / "x.png"
    (record,) = caplog.records
    assert record.getMessage().startswith("no installed font has 空間स्थान🚀: the figure shows escapes such as \\u7a7a")
    svg = (tmp_path / "x.svg").read_text()
    assert all(f"{kind} {UNKNOWN}" in svg for kind in ("title", "tick", "label")) and "\\u7a7a" not in svg
    figure = Figure()
    axes = figure.subplots()
    axes.set_xticks([0, 1], ["naïve", UNKNOWN])
    choose_fonts(figure)
    figure.draw_without_rendering()
    escaped = r"\u7a7a\u9593 \u0938\u094d\u0925\u093e\u0928 \U0001f680"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["naïve", escaped]


def test_the_length_of_a_text_is_that_of_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn_length("naïve_name") == 10
    monkeypatch.setattr(glyphs, "font_with", lambda _: "some font")
    assert drawn_length("a空間") == 5
    monkeypatch.setattr(glyphs, "font_with", lambda _: None)
    assert drawn_length("a空間") == len(r"a\u7a7a\u9593")
    assert wrapped_name("空間空間空_a", 12) == "空間\n空間\n空_a"


def test_another_installed_font_draws_what_the_own_one_lacks() -> None:
    # cmr10, which comes with matplotlib, has no accents; DejaVu Sans has
    assert missing_characters("naïve", ["cmr10"]) == "ï" and missing_characters("naïve", ["cmr10", "DejaVu Sans"]) == ""
    figure = Figure()
    title = figure.suptitle("naïve", fontfamily=["cmr10"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        choose_fonts(figure)
        figure.draw_without_rendering()
    font = font_with("ï")
    assert title.get_text() == "naïve" and title.get_fontfamily() == ["cmr10", font]


def test_an_embedded_drawing_keeps_its_characters_without_a_note(caplog: pytest.LogCaptureFixture) -> None:
    figure = Figure()
    figure.suptitle(UNKNOWN)
    with warnings.catch_warnings(), figure_style():
        warnings.simplefilter("error")
        assert UNKNOWN in embedded_svg(figure, "x")
    assert not caplog.records
