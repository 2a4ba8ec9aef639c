"""Sounds of one second with one to four tones that are high or low, and the questions about them."""

import random
from dataclasses import dataclass

import numpy as np

RATE, SECONDS = 16_000, 1.0
"""Samples a second, and the length of a sound."""
PITCHES = {"high": (1_200, 2_400), "low": (200, 500)}
"""Word ▸ frequencies in hertz, from and to."""
NUMBERS = ("one", "two", "three", "four")
PITCH, NUMBER = "is it high or low ?", "how many tones are there ?"
"""The questions."""
STYLES = {"plain": (0.005, 0.02), "hard": (0.15, 0.5)}
"""Name ▸ standard deviation of the noise, from and to; a tone has amplitude 0.3."""


@dataclass(frozen=True, slots=True)
class Tones:
    """One sound.

    Attributes:
        pitch: `high` or `low`, of all its tones.
        count: how many.
        style: a key of `STYLES`.
        seed: of everything else.
    """

    pitch: str
    count: int
    style: str
    seed: int

    def times(self) -> np.ndarray:
        """When each tone begins and ends, in seconds [tones, 2]."""
        drawn = np.random.default_rng([self.seed, 0])
        # equal parts of the second; a tone is the middle of one, more or less
        parts = np.arange(self.count)[:, None] * SECONDS / self.count + np.array([[0.06, SECONDS / self.count - 0.06]])
        times: np.ndarray = parts + drawn.uniform(-0.02, 0.02, parts.shape)
        longest = drawn.uniform(0.12, 0.25, self.count)
        times[:, 1] = np.minimum(times[:, 1], times[:, 0] + longest)
        return times

    def render(self) -> np.ndarray:
        """The samples, float32 [16000]."""
        drawn = np.random.default_rng([self.seed, 1])
        time = np.arange(int(RATE * SECONDS)) / RATE
        sound = drawn.normal(0, drawn.uniform(*STYLES[self.style]), len(time))
        for begin, end in self.times():
            frequency = drawn.uniform(*PITCHES[self.pitch])
            loud = np.clip((time - begin) / 0.01, 0, 1) * np.clip((end - time) / 0.01, 0, 1)
            sound += 0.3 * loud * np.sin(2 * np.pi * frequency * time + drawn.uniform(0, 6))
        return sound.astype(np.float32)

    def answer(self, question: str) -> str:
        """The right word."""
        return self.pitch if question == PITCH else NUMBERS[self.count - 1]


def sample_tones(rng: random.Random, style: str = "plain") -> Tones:
    """A random sound."""
    return Tones(rng.choice(list(PITCHES)), rng.randint(1, len(NUMBERS)), style, rng.randrange(2**31))
