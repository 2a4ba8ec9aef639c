"""How numbers and vectors are written, the same in every output."""

import math
from pathlib import Path


def points(value: float) -> str:
    """`+1.2`, and plain `0.0` for what rounds to it."""
    return number(value, "+")


def p(value: float) -> str:
    """`0.012`, `<0.001`; "" for NaN."""
    if math.isnan(value):
        return ""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


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


def vector(name: str) -> str:
    """`concept/method` of a vector's file, with its control; any other name as it is."""
    file, comma, control = name.partition(",control=")
    path = Path(file)
    return f"{path.parent.name}/{path.stem}{comma}{control}" if path.suffix == ".safetensors" else name


def number(value: float, sign: str = "") -> str:
    """`1.2`, with a `+` where `sign` is one."""
    # no -0.0 for what rounds to nothing
    text = f"{value:{sign}.1f}"
    return "0.0" if float(text) == 0 else text
