"""Scenes: a few coloured shapes, each in its own cell of a 4 x 4 grid, and their images.

An image has 64 x 64 pixels, a patch of 16 x 16 per cell. The same scene, style and seed give the same bytes.
"""

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

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
"""Colour ▸ RGB in 0-255, before the style's variations."""

SIZE = 64
PATCH = 16
_OVERSAMPLING = 2


@dataclass(frozen=True, slots=True, order=True)
class Thing:
    """One object of a scene.

    Attributes:
        cell: its number in the grid, counted row by row from the top left.
        colour: one of `COLOURS`.
        shape: one of `SHAPES`.
    """

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
    """The plural of a shape's name."""
    return shape + ("es" if shape == "cross" else "s")


def sample_scene(rng: random.Random, fewest: int = 1, most: int = 6) -> Scene:
    """A scene of `fewest` to `most` objects, no two of the same colour and shape.

    A few shapes and colours are drawn first, so that equal colours and shapes are common and counting is not easy.
    """
    shapes = rng.sample(SHAPES, rng.randint(1, 4))
    colours = rng.sample(list(COLOURS), rng.randint(2, 6))
    things: list[Thing] = []
    used: set[tuple[str, str]] = set()
    for cell in rng.sample(range(CELLS), rng.randint(fewest, most)):
        colour, shape = rng.choice(colours), rng.choice(shapes)
        attempts = 0
        while (colour, shape) in used:
            colour, shape = rng.choice(list(COLOURS) if attempts else colours), rng.choice(SHAPES)
            attempts += 1
        used.add((colour, shape))
        things.append(Thing(cell, colour, shape))
    return tuple(things)


def cell_words(scene: Scene) -> list[tuple[str, str, str, str]]:
    """Words for each of the 16 cells: (colour or `empty`, shape or "", column word, row word)."""
    things = {thing.cell: thing for thing in scene}
    return [
        (
            things[cell].colour if cell in things else "empty",
            things[cell].shape if cell in things else "",
            f"c{cell % GRID + 1}",
            f"r{cell // GRID + 1}",
        )
        for cell in range(CELLS)
    ]


def relation(first: Thing, second: Thing, rng: random.Random) -> str | None:
    """A word for the position of `first` relative to `second`: left, right, above or below; None in the same cell."""
    words = []
    if first.column != second.column:
        words.append("left" if first.column < second.column else "right")
    if first.row != second.row:
        words.append("above" if first.row < second.row else "below")
    return rng.choice(words) if words else None


@dataclass(frozen=True, slots=True)
class Style:
    """How scenes are rendered. Lengths are in pixels of the finished image, colours in 0-255.

    Attributes:
        noise: standard deviation of the noise on each pixel.
        radius: range of the objects' sizes.
        jitter: how far an object is moved from its cell's centre at most.
        background: RGB.
        background_spread: standard deviation of the background's colour between images.
        gain: range of the factor on an object's colour.
        tint: standard deviation of what is added to an object's colour.
        strokes: the maximal number of short lines of random colours on top.
        dots: the maximal number of small filled discs of random colours on top.
    """

    noise: float
    radius: tuple[float, float]
    jitter: float
    background: tuple[int, int, int]
    background_spread: float
    gain: tuple[float, float]
    tint: float
    strokes: int
    dots: int = 0


STYLES = {
    # of the training images
    "plain": Style(14, (4, 6.5), 2.5, (70, 70, 75), 14, (0.65, 1.15), 20, 4),
    # harder, for the question sets, so that the unsteered model leaves room for improvement
    "grainy": Style(20, (3.6, 7), 2.8, (85, 80, 76), 17, (0.62, 1.18), 22, 7),
    "coarse": Style(30, (3.0, 7.5), 3.5, (100, 92, 82), 22, (0.58, 1.2), 27, 12),
    # out of distribution: a green background, a wider range of sizes, and dots
    "moss": Style(20, (3.0, 8), 4, (62, 84, 58), 14, (0.65, 1.2), 24, 1, 10),
}


def render(scene: Scene, style: Style, seed: int) -> npt.NDArray[np.uint8]:
    """Render a scene: uint8 [64, 64, 3]."""
    noise = np.random.default_rng(seed)
    background = np.array(style.background) + noise.normal(0, style.background_spread, 3)
    image = Image.new("RGB", (SIZE * _OVERSAMPLING, SIZE * _OVERSAMPLING), _rgb(background))
    draw = ImageDraw.Draw(image)
    for thing in scene:
        _draw(draw, thing, style, noise)
    for _ in range(noise.integers(0, style.strokes + 1)):
        x, y = noise.uniform(0, SIZE * _OVERSAMPLING, 2)
        dx, dy = noise.uniform(-7, 7, 2) * _OVERSAMPLING
        draw.line([x, y, x + dx, y + dy], fill=_rgb(noise.integers(0, 256, 3)), width=int(noise.integers(1, 4)))
    for _ in range(noise.integers(0, style.dots + 1) if style.dots else 0):
        x, y = noise.uniform(0, SIZE * _OVERSAMPLING, 2)
        r = noise.uniform(0.6, 1.9) * _OVERSAMPLING
        draw.ellipse([x - r, y - r, x + r, y + r], fill=_rgb(noise.integers(0, 256, 3)))
    pixels = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX), dtype=np.float32)
    return (pixels + noise.normal(0, style.noise, pixels.shape)).clip(0, 255).astype(np.uint8)


def random_seed(rng: random.Random) -> int:
    """A seed for `render`."""
    return rng.randrange(2**31)


def _rgb(values: npt.NDArray[np.generic]) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in values.clip(0, 255))
    return red, green, blue


def _draw(draw: ImageDraw.ImageDraw, thing: Thing, style: Style, noise: np.random.Generator) -> None:
    colour = _rgb(np.array(COLOURS[thing.colour]) * noise.uniform(*style.gain) + noise.normal(0, style.tint, 3))
    jitter = noise.uniform(-style.jitter, style.jitter, 2)
    r = noise.uniform(*style.radius)
    # so that no object reaches far into a neighbouring cell
    limit = max(0.0, PATCH / 2 + 0.5 - r)
    column, row = thing.column, thing.row
    x = ((column + 0.5) * PATCH + np.clip(jitter[0], -limit, limit)) * _OVERSAMPLING
    y = ((row + 0.5) * PATCH + np.clip(jitter[1], -limit, limit)) * _OVERSAMPLING
    r *= _OVERSAMPLING
    if thing.shape == "circle":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=colour)
    elif thing.shape == "square":
        q = r * 0.88
        draw.rectangle([x - q, y - q, x + q, y + q], fill=colour)
    elif thing.shape == "triangle":
        draw.polygon([(x, y - r), (x - r, y + r * 0.85), (x + r, y + r * 0.85)], fill=colour)
    else:
        q = r * 0.34
        draw.rectangle([x - r, y - q, x + r, y + q], fill=colour)
        draw.rectangle([x - q, y - r, x + q, y + r], fill=colour)
