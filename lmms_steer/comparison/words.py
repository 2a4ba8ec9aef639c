"""How a row's numbers are written, the same in every output."""

import math
from pathlib import Path

from lmms_steer.comparison.board import Row

CAPTION = (
    "Scores in percent, gains in points against the baseline on the same questions, with 95% intervals. p: McNemar's"
    " mid-p, or sign flips for graded scores, averages and questions that share an image; p (Holm): corrected over all"
    " rows. An asterisk: p (Holm) < 0.05."
)


def score(row: Row) -> str:
    """`84.0`."""
    return _number(row.score * row.scale, "")


def gain(row: Row) -> str:
    """`+1.2 [-0.3, +2.7]`; "" where there is none."""
    if math.isnan(row.gain):
        return ""
    told, low, high = (points(x * row.scale) for x in (row.gain, row.low, row.high))
    return f"{told} [{low}, {high}]"


def points(value: float) -> str:
    """`+1.2`, and plain `0.0` for what rounds to it."""
    return _number(value, "+")


def p(value: float) -> str:
    """`0.012`, `<0.001`; "" for NaN."""
    if math.isnan(value):
        return ""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def holm(row: Row) -> str:
    """The corrected p, with an asterisk below 0.05."""
    return p(row.p_holm) + ("*" if row.p_holm < 0.05 else "")


def differing(row: Row) -> str:
    """Answers fixed / broken."""
    return "" if row.fixed is None else f"{row.fixed} / {row.broken}"


def share(value: float) -> str:
    """`12.5%`; "" for NaN."""
    return "" if math.isnan(value) else f"{100 * value:.1f}%"


def seconds(value: float) -> str:
    """`5 s`, `12 min`, `3.4 h`; "" for NaN."""
    if math.isnan(value):
        return ""
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def questions(row: Row) -> str:
    """`200`, and how many images they share."""
    return f"{row.n}" if row.images is None else f"{row.n} ({row.images} images)"


def vector(name: str) -> str:
    """`concept/method` of a vector's file, with its control; any other name as it is."""
    file, comma, control = name.partition(",control=")
    path = Path(file)
    return f"{path.parent.name}/{path.stem}{comma}{control}" if path.suffix == ".safetensors" else name


def _number(value: float, sign: str) -> str:
    # no -0.0 for what rounds to nothing
    text = f"{value:{sign}.1f}"
    return "0.0" if float(text) == 0 else text
