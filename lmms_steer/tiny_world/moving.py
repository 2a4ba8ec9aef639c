"""Short videos of one dot that moves left, right, up or down, and the questions about them."""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image

FRAMES, SIDE, SECONDS = 8, 32, 4.0
"""Frames of a video, their side in pixels, and how long it lasts."""
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
COLOURS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 80, 230), "yellow": (230, 210, 50)}
WAY, COLOUR = "which way does it go ?", "what colour is it ?"
"""The questions."""


@dataclass(frozen=True, slots=True)
class Style:
    """How a video is drawn.

    Attributes:
        speed: pixels a frame, from and to.
        contrast: of the dot against the ground, from and to.
        noise: standard deviation of each pixel, in grey levels.
    """

    speed: tuple[float, float] = (2.5, 3.2)
    contrast: tuple[float, float] = (0.8, 1.0)
    noise: float = 6.0


STYLES = {"plain": Style(), "hard": Style((1.5, 2.5), (0.25, 0.6), 16.0)}


@dataclass(frozen=True, slots=True)
class Moving:
    """One video.

    Attributes:
        colour, direction: words.
        style: a key of `STYLES`.
        seed: of everything else.
    """

    colour: str
    direction: str
    style: str
    seed: int

    def path(self) -> np.ndarray:
        """The middle of the dot in each frame, in pixels [frames, 2]: x to the right, y down."""
        drawn = np.random.default_rng([self.seed, 0])
        step = drawn.uniform(*STYLES[self.style].speed) * np.array(DIRECTIONS[self.direction])
        way = step * (FRAMES - 1)
        low, high = np.maximum(4, 4 - way), np.minimum(SIDE - 4, SIDE - 4 - way)
        path: np.ndarray = drawn.uniform(low, high) + np.arange(FRAMES)[:, None] * step
        return path

    def render(self) -> np.ndarray:
        """The frames, uint8 [frames, height, width, 3]."""
        drawn, style = np.random.default_rng([self.seed, 1]), STYLES[self.style]
        contrast, radius, ground = drawn.uniform(*style.contrast), drawn.uniform(3, 4), drawn.uniform(90, 140)
        rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
        frames = np.full((FRAMES, SIDE, SIDE, 3), ground)
        for number, (x, y) in enumerate(self.path()):
            inside = np.clip(radius + 0.5 - np.hypot(columns - x, rows - y), 0, 1)[..., None] * contrast
            frames[number] = frames[number] * (1 - inside) + np.array(COLOURS[self.colour]) * inside
        frames += drawn.normal(0, style.noise, frames.shape)
        return frames.clip(0, 255).round().astype(np.uint8)

    def images(self) -> list[Image.Image]:
        """The frames as images."""
        return [Image.fromarray(frame) for frame in self.render()]

    def answer(self, question: str) -> str:
        """The right word."""
        return self.direction if question == WAY else self.colour


def sample_moving(rng: random.Random, style: str = "plain") -> Moving:
    """A random video."""
    return Moving(rng.choice(list(COLOURS)), rng.choice(list(DIRECTIONS)), style, rng.randrange(2**31))
