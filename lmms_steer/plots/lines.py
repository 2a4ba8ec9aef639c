"""Curves with bands, values with intervals, and the line at zero."""

from typing import Any

from numpy.typing import ArrayLike

from lmms_steer.plots.style import DARK_GREY, ROLE_COLOURS, ROLE_MARKERS


def draw_curve(ax: Any, x: ArrayLike, y: ArrayLike, colour: str, marker: str = "o", label: str = "") -> None:
    """Draw a curve with a marker at each measured value.

    Args:
        ax: matplotlib's axes.
        x: where the values were measured, ascending.
        y: the values.
        colour: of line and markers.
        marker: matplotlib's marker.
        label: in the legend; none if empty.
    """
    ax.plot(x, y, color=colour, marker=marker, markersize=4.5, label=label or None)


def draw_band(ax: Any, x: ArrayLike, low: ArrayLike, high: ArrayLike, colour: str, label: str = "") -> None:
    """Fill the area between two curves; the arguments are those of `draw_curve`."""
    ax.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0, label=label or None)


def draw_interval(ax: Any, y: float, value: float, low: float, high: float, role: str, filled: bool) -> None:
    """Draw a value with its horizontal interval, in the colour and with the marker of a system's role.

    Args:
        ax: matplotlib's axes.
        y: the height at which it is drawn.
        value: the centre.
        low: the lower end of the interval.
        high: the upper end.
        role: a key of `ROLE_COLOURS`.
        filled: whether the marker is filled; figures fill it for significant values.
    """
    colour = ROLE_COLOURS[role]
    ax.plot([low, high], [y, y], color=colour, linewidth=1.6)
    face = colour if filled else "white"
    ax.plot(value, y, marker=ROLE_MARKERS[role], markersize=5.5, markerfacecolor=face, markeredgecolor=colour)


def draw_zero_line(ax: Any, vertical: bool = False) -> None:
    """Draw the line at zero: no difference from the baseline."""
    (ax.axvline if vertical else ax.axhline)(0, color=DARK_GREY, linewidth=0.8)
