"""How a row's numbers are written, the same in every output."""

import math

from lmms_steer.comparison.board import Row
from lmms_steer.figures.words import number, p, points

CAPTION = (
    "Scores in percent, gains in points against the baseline on the same questions, with 95% intervals. p: McNemar's"
    " mid-p, or sign flips for graded scores, averages and questions that share an image; p (Holm): corrected over all"
    " rows. An asterisk: p (Holm) < 0.05."
)


def score(row: Row) -> str:
    """`84.0`."""
    return number(row.score * row.scale)


def gain(row: Row) -> str:
    """`+1.2 [-0.3, +2.7]`; "" where there is none."""
    if math.isnan(row.gain):
        return ""
    told, low, high = (points(x * row.scale) for x in (row.gain, row.low, row.high))
    return f"{told} [{low}, {high}]"


def holm(row: Row) -> str:
    """The corrected p, with an asterisk below 0.05."""
    return p(row.p_holm) + ("*" if row.p_holm < 0.05 else "")


def differing(row: Row) -> str:
    """Answers fixed / broken."""
    return "" if row.fixed is None else f"{row.fixed} / {row.broken}"


def questions(row: Row) -> str:
    """`200`, and how many images they share."""
    return f"{row.n}" if row.images is None else f"{row.n} ({row.images} images)"
