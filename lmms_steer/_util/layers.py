"""Read and write ranges of layers: `5-20`, `0-8:2`, `1,4,7`."""

import re
from collections.abc import Sequence

from lmms_steer.errors import UserError, shorten

MAX_LAYERS = 10_000
"""Maximum number of layers that a range may name."""


def read_layers(text: str, name: str) -> tuple[int, ...]:
    """Parse `5-20`, `3`, `0-8:2` or `1,4,7` into layers, in the order in which they are given.

    Args:
        text: as typed.
        name: the option or key with its separator, for the messages ("--layers ").

    Raises:
        UserError: for anything else.
    """
    layers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?\s*", part)
        if match is None or (match[3] and int(match[3]) == 0):
            raise UserError(f"{name}{shorten(text)}: expected layers such as 5-20, 0-24:4 or 3,7")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"{name}{shorten(text)}: {part.strip()} runs backwards")
        found = range(first, last + 1, int(match[3] or 1))
        if len(layers) + len(found) > MAX_LAYERS:
            raise UserError(f"{name}{shorten(text)}: more than {MAX_LAYERS} layers")
        layers += found
    return tuple(dict.fromkeys(layers))


def write_layers(layers: Sequence[int]) -> str:
    """The shortest text that `read_layers` reads: `8-20`, `8-20:4`, or `1,4,6` without one step."""
    step = layers[1] - layers[0] if len(layers) > 1 else 0
    even = step > 0 and tuple(layers) == tuple(range(layers[0], layers[-1] + 1, step))
    if not even or (step > 1 and len(layers) < 3):
        return ",".join(map(str, layers))
    return f"{layers[0]}-{layers[-1]}" + (f":{step}" if step > 1 else "")
