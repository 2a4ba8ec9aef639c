"""Figures that no window and no pyplot manages: they are saved to files, or shown by a notebook."""

import io
from typing import Any

from matplotlib.figure import Figure

_DPI = 90


class ShownFigure(Figure):
    """A matplotlib figure that a notebook shows, whatever backend is active."""

    def _repr_png_(self) -> bytes:
        from lmms_steer.plots.glyphs import choose_fonts, no_glyph_warnings

        buffer = io.BytesIO()
        choose_fonts(self, escape=True)
        with no_glyph_warnings():
            self.savefig(buffer, format="png", dpi=_DPI, bbox_inches="tight")
        return buffer.getvalue()


class FigureMaker:
    """pyplot's functions that make a figure, without its list of open figures and without a backend.

    A figure of pyplot's would be shown a second time by a notebook, and choosing a backend would hide the user's own.
    """

    def figure(self, **options: Any) -> ShownFigure:
        """Make an empty figure."""
        return ShownFigure(**options)

    def subplots(self, rows: int = 1, columns: int = 1, **options: Any) -> tuple[ShownFigure, Any]:
        """Make a figure with a grid of axes, as `pyplot.subplots`."""
        figure = self.figure(**_taken(options))
        return figure, figure.subplots(rows, columns, **options)

    def subplot_mosaic(self, mosaic: Any, **options: Any) -> tuple[ShownFigure, Any]:
        """Make a figure with named axes, as `pyplot.subplot_mosaic`."""
        figure = self.figure(**_taken(options))
        return figure, figure.subplot_mosaic(mosaic, **options)


def _taken(options: dict[str, Any]) -> dict[str, Any]:
    """Take a figure's own options from those of its axes."""
    return {name: options.pop(name) for name in ("figsize", "layout") if name in options}
