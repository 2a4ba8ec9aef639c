"""Training samples of the text backbone: pieces of text with loss weights, some after a scene in 16 slots."""

import random
from dataclasses import dataclass
from typing import Literal

from lmms_steer.tiny_world.language import HINTS, describe, ordinary_sentence, scene_sentence, world_sentence
from lmms_steer.tiny_world.questions import MIX, Mix, ask
from lmms_steer.tiny_world.scenes import Scene, sample_scene

Mode = Literal["prefix", "causal", "text"]
ANSWER_WEIGHT = 4.0
"""The loss weight of answers."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One training sample.

    Attributes:
        mode: `text`: text only; `causal`: the scene in slots before the text; `prefix`: the same, and the slots and the
            first piece attend to each other, like a PaliGemma prompt, and carry no loss.
        scene: the scene, or None for a sample without one.
        pieces: pieces of text, each with its loss weight.
    """

    mode: Mode
    scene: Scene | None
    pieces: tuple[tuple[str, float], ...]


def sample(rng: random.Random, most: int = 6, mix: Mix = MIX, vertical: float = 0.5) -> Sample:
    """Draw a sample: ordinary sentences, sentences about the world, sentences or questions about a scene.

    Args:
        rng: for every random choice.
        most: the maximal number of objects in a scene (the curriculum).
        mix: the kinds of questions.
        vertical: the share of spatial questions about above or below.
    """
    kind = rng.random()
    if kind < 0.12:
        return Sample("text", None, ((" ".join(ordinary_sentence(rng) for _ in range(rng.randint(4, 7))), 1.0),))
    if kind < 0.18:
        return Sample("text", None, ((" ".join(world_sentence(rng) for _ in range(rng.randint(4, 7))), 1.0),))
    scene = sample_scene(rng, 2 if rng.random() < 0.8 else 1, most)
    mode: Mode = "text" if kind < 0.34 else "causal" if kind < 0.5 else "prefix"
    description = ((describe(scene, rng), 0.1),) if mode == "text" else ()
    if kind < 0.22 or 0.34 < kind < 0.38:
        return Sample(mode, scene, (*description, *((scene_sentence(scene, rng), 1.0) for _ in range(4))))
    pieces = list(description)
    for number in range(4):
        question = ask(scene, rng, mix, vertical)
        hint = f"{rng.choice(HINTS)} " if number == 0 and rng.random() < 0.12 else ""
        pieces += [(f"{hint}{question.text}\n", 0.1), (question.answer, ANSWER_WEIGHT)]
    return Sample(mode, scene, tuple(pieces))
