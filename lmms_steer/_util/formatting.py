"""How numbers and vectors are written, the same in every output."""

import math
from pathlib import Path


def format_points(value: float) -> str:
    """`+1.2`, and plain `0.0` for what rounds to it."""
    return format_number(value, "+")


def format_p(value: float) -> str:
    """`0.012`, `<0.001`; "" for NaN."""
    if math.isnan(value):
        return ""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def format_share(value: float) -> str:
    """`12.5%`; "" for NaN."""
    return "" if math.isnan(value) else f"{100 * value:.1f}%"


def format_seconds(value: float) -> str:
    """`5 s`, `12 min`, `3.4 h`; "" for NaN."""
    if math.isnan(value):
        return ""
    if value < 120:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 7200 else f"{value / 3600:.1f} h"


def format_vector_name(name: str) -> str:
    """`concept/method` of a vector's file, with its control; any other name as it is."""
    file, comma, control = name.partition(",control=")
    path = Path(file)
    return f"{path.parent.name}/{path.stem}{comma}{control}" if path.suffix == ".safetensors" else name


def format_number(value: float, sign: str = "") -> str:
    """`1.2`, with a `+` where `sign` is one."""
    # no -0.0 for what rounds to nothing
    text = f"{value:{sign}.1f}"
    return "0.0" if float(text) == 0 else text


def format_layers(layers: tuple[int, ...]) -> str:
    """`0-25` for a run of layers, else the list."""
    if len(layers) > 1 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))


def format_shape(layers: tuple[int, ...], width: int) -> str:
    """`5 layers x 96`; with their numbers where they do not begin at 0 or leave one out: `4 layers (1-4) x 96`."""
    which = "" if layers == tuple(range(len(layers))) else f" ({format_layers(layers)})"
    return f"{count_noun(len(layers), 'layer')}{which} x {width}"


def count_noun(number: int, noun: str) -> str:
    """`1 anchor`, `2 anchors`; of several words the first has the plural: `2 controls (contrast)`."""
    first, _, rest = noun.partition(" ")
    return f"{number} {first}{'' if number == 1 else 's'}{f' {rest}' if rest else ''}"
