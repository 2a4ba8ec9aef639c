"""A scene ▸ a picture of 64 x 64 pixels, one patch of 16 x 16 a cell. The same seed gives the same bytes."""

import random
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from lmms_steer.tiny_world.world import COLOURS, Scene, Thing

SIZE = 64
PATCH = 16
_OVERSAMPLING = 2


@dataclass(frozen=True, slots=True)
class Style:
    """How hard a picture is to read. Lengths in pixels of the finished picture, colours in 0-255."""

    noise: float
    radius: tuple[float, float]
    jitter: float
    background: tuple[int, int, int]
    background_spread: float
    gain: tuple[float, float]
    tint: float
    strokes: int
    """At most so many short lines of random colours on top."""
    dots: int = 0
    """At most so many small filled discs of random colours."""


STYLES = {
    # what the models were trained on
    "plain": Style(14, (4, 6.5), 2.5, (70, 70, 75), 14, (0.65, 1.15), 20, 4),
    # harder: for the questions, so that they leave head-room
    "grainy": Style(20, (3.6, 7), 2.8, (85, 80, 76), 17, (0.62, 1.18), 22, 7),
    "coarse": Style(30, (3.0, 7.5), 3.5, (100, 92, 82), 22, (0.58, 1.2), 27, 12),
    # out of distribution: a green ground, a wider range of sizes, dots for clutter
    "moss": Style(20, (3.0, 8), 4, (62, 84, 58), 14, (0.65, 1.2), 24, 1, 10),
}


def render(scene: Scene, style: Style, seed: int) -> npt.NDArray[np.uint8]:
    """The picture: uint8 [64, 64, 3]."""
    noise = np.random.default_rng(seed)
    ground = np.array(style.background) + noise.normal(0, style.background_spread, 3)
    image = Image.new("RGB", (SIZE * _OVERSAMPLING, SIZE * _OVERSAMPLING), _rgb(ground))
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
    return rng.randrange(2**31)


def _rgb(values: npt.NDArray[np.generic]) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in values.clip(0, 255))
    return red, green, blue


def _draw(draw: ImageDraw.ImageDraw, thing: Thing, style: Style, noise: np.random.Generator) -> None:
    colour = _rgb(np.array(COLOURS[thing.colour]) * noise.uniform(*style.gain) + noise.normal(0, style.tint, 3))
    jitter = noise.uniform(-style.jitter, style.jitter, 2)
    r = noise.uniform(*style.radius)
    room = max(0.0, PATCH / 2 + 0.5 - r)  # so that no object reaches far into a neighbour's cell
    column, row = thing.column, thing.row
    x = ((column + 0.5) * PATCH + np.clip(jitter[0], -room, room)) * _OVERSAMPLING
    y = ((row + 0.5) * PATCH + np.clip(jitter[1], -room, room)) * _OVERSAMPLING
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
