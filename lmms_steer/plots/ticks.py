"""Tick labels, captions and legends that fit into the figure."""

import math
import textwrap
from collections.abc import Sequence
from typing import Any

_LINE, _CHARACTER = 1.2, 0.62
"""Height of a line and width of a character, as parts of the font size."""
_HANDLE = 4.8
"""Width of a legend's handle with the space around it, in font sizes."""
_FEW_DECADES = 1000
"""The largest ratio of an axis's ends with room for three labels a decade."""
_POINTS = 72
"""Points in an inch."""


def label_numbers(ax: Any, axis: str, labels: Sequence[str], fontsize: float, rotated: bool = False) -> None:
    """Put a label at each of 0, 1, 2, … of an axis; if they would overlap, at every second, third, … one.

    Args:
        ax: matplotlib's axes, with their place in the figure.
        axis: `x` or `y`.
        labels: numbers as text.
        fontsize: in points.
        rotated: whether the labels are turned by 90 degrees.
    """
    width, height = ax.get_position().size * ax.figure.get_size_inches()
    longest = max(map(len, labels), default=0)
    side = _CHARACTER * longest + 0.5 if axis == "x" and not rotated else _LINE
    room = _POINTS * (width if axis == "x" else height) / max(1, len(labels))
    step = max(1, math.ceil(fontsize * side / room))
    set_ticks = ax.set_xticks if axis == "x" else ax.set_yticks
    set_ticks(range(0, len(labels), step), labels[::step], fontsize=fontsize, **({"rotation": 90} if rotated else {}))


def label_decades(ax: Any, ratio: float) -> None:
    """Label 1, 2, 5, 10, … of a logarithmic horizontal axis; of many decades the powers of ten alone.

    Args:
        ax: matplotlib's axes.
        ratio: of the axis's ends.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio <= _FEW_DECADES else (1,)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


def draw_caption(figure: Any, text: str, fontsize: float) -> None:
    """Write a line below a figure, on several lines where it is wider than the figure."""
    characters = int(_POINTS * figure.get_size_inches()[0] / (_CHARACTER * fontsize))
    figure.supxlabel("\n".join(textwrap.wrap(text, max(20, characters))), fontsize=fontsize)


def legend_columns(figure: Any, labels: Sequence[str], fontsize: float) -> int:
    """The number of columns in which a legend is not wider than its figure, at least 1.

    Args:
        figure: matplotlib's figure.
        labels: of the legend, which may have several lines.
        fontsize: in points.
    """
    widths = [max(map(len, label.split("\n"))) * _CHARACTER + _HANDLE for label in labels]
    room = _POINTS * figure.get_size_inches()[0] / fontsize
    fitting = [n for n in range(1, len(labels) + 1) if n * max(widths) <= room]
    return max(fitting, default=1)
