"""Scenes: a few coloured shapes, each in its own cell of a 4 x 4 grid."""

import random
from dataclasses import dataclass

GRID = 4
CELLS = GRID * GRID
SHAPES = ("circle", "square", "triangle", "cross")
NUMBERS = ("one", "two", "three", "four", "five", "six")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "orange": (240, 135, 30),
    "yellow": (235, 215, 45),
    "green": (45, 170, 60),
    "blue": (45, 85, 215),
    "purple": (140, 50, 180),
    "pink": (245, 140, 190),
    "white": (240, 240, 240),
}


@dataclass(frozen=True, slots=True, order=True)
class Thing:
    """One object; `cell` counts the grid's cells row by row from the top left."""

    cell: int
    colour: str
    shape: str

    @property
    def column(self) -> int:
        return self.cell % GRID

    @property
    def row(self) -> int:
        return self.cell // GRID

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


Scene = tuple[Thing, ...]


def plural(shape: str) -> str:
    return shape + ("es" if shape == "cross" else "s")


def sample_scene(rng: random.Random, fewest: int = 1, most: int = 6) -> Scene:
    """A scene of `fewest` to `most` objects, no two alike in both colour and shape.

    Few shapes and colours are drawn first, so that equal colours and equal shapes are common and counting is not easy.
    """
    shapes = rng.sample(SHAPES, rng.randint(1, 4))
    colours = rng.sample(list(COLOURS), rng.randint(2, 6))
    things: list[Thing] = []
    taken: set[tuple[str, str]] = set()
    for cell in rng.sample(range(CELLS), rng.randint(fewest, most)):
        colour, shape = rng.choice(colours), rng.choice(shapes)
        widen = 0
        while (colour, shape) in taken:
            colour, shape = rng.choice(list(COLOURS) if widen else colours), rng.choice(SHAPES)
            widen += 1
        taken.add((colour, shape))
        things.append(Thing(cell, colour, shape))
    return tuple(things)


def cell_words(scene: Scene) -> list[tuple[str, str, str, str]]:
    """What each of the 16 cells holds: (colour or `empty`, shape or nothing, column word, row word)."""
    held = {thing.cell: thing for thing in scene}
    return [
        (
            held[cell].colour if cell in held else "empty",
            held[cell].shape if cell in held else "",
            f"c{cell % GRID + 1}",
            f"r{cell // GRID + 1}",
        )
        for cell in range(CELLS)
    ]


def relation(first: Thing, second: Thing, rng: random.Random) -> str | None:
    """A word for where `first` is, seen from `second`; None where they share a cell."""
    words = []
    if first.column != second.column:
        words.append("left" if first.column < second.column else "right")
    if first.row != second.row:
        words.append("above" if first.row < second.row else "below")
    return rng.choice(words) if words else None
