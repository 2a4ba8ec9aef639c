"""Format numbers, layers, counts and vector names, the same way in every output."""

import math
from collections.abc import Iterable
from pathlib import Path


def format_points(value: float) -> str:
    """A gain in points: `+1.2`, and `0.0` without a sign for values that round to it."""
    return format_number(value, "+")


def format_p(value: float) -> str:
    """A p-value: `0.012`, `<0.001`; "" for NaN."""
    if math.isnan(value):
        return ""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def format_share(value: float) -> str:
    """A fraction as a percentage: `12.5%`; "" for NaN."""
    return "" if math.isnan(value) else f"{100 * value:.1f}%"


def format_seconds(value: float) -> str:
    """A duration: `5 s`, `12 min`, `3.4 h`; "" for NaN."""
    if math.isnan(value):
        return ""
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def format_vector_name(name: str) -> str:
    """`CONCEPT/METHOD` for a path of a vector file, with its control; any other name unchanged."""
    file, comma, control = name.partition(",control=")
    path = Path(file)
    return f"{path.parent.name}/{path.stem}{comma}{control}" if path.suffix == ".safetensors" else name


def format_number(value: float, sign: str = "", decimals: int = 1) -> str:
    """One decimal, or `decimals`: `1.2`, or `+1.2` with `sign="+"`; never `-0.0`, and `+∞` for infinity."""
    text = f"{value:{sign}.{decimals}f}"
    if math.isinf(value):
        return text.replace("inf", "∞")
    return f"{0:.{decimals}f}" if float(text) == 0 else text


def format_layers(layers: tuple[int, ...]) -> str:
    """Layers: `0-25` for consecutive ones, else a list."""
    if len(layers) > 1 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))


def format_shape(layers: tuple[int, ...], width: int, patches: int | None = None) -> str:
    """The shape of vectors: `5 layers x 96`, or `4 layers (1-4) x 96` where the layers are not 0, 1, 2, …

    With a direction for each patch: `2 layers x 16 patches x 96`.
    """
    numbers = "" if layers == tuple(range(len(layers))) else f" ({format_layers(layers)})"
    rows = "" if patches is None else f" x {patches} patches"
    return f"{count_noun(len(layers), 'layer')}{numbers}{rows} x {width}"


def join_values(values: object) -> str:
    """Values of Python as the command line takes them: `[3, 7]` as `3,7`, and 3 as `3`."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        return str(values)
    return ",".join(map(str, values))


def count_noun(number: int, noun: str, plural: str = "") -> str:
    """A number and a noun: `1 anchor`, `2 anchors`.

    Without a plural, the first of several words gets the s: `2 pairs of words`.
    """
    first, space, rest = noun.partition(" ")
    return f"{number} {noun if number == 1 else plural or f'{first}s{space}{rest}'}"
