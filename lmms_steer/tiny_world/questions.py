"""Questions about a scene, with the choices and the right one, each a word of the tiny vocabulary."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from lmms_steer.tiny_world.scenes import COLOURS, NUMBERS, SHAPES, Scene, Thing, plural


@dataclass(frozen=True, slots=True)
class Question:
    """`kind` is spatial, counting, colour, find, shape or exist; `choices` is empty for `find`."""

    kind: str
    text: str
    choices: tuple[str, ...]
    answer: str


def _alone(scene: Scene, key: Callable[[Thing], str]) -> list[Thing]:
    return [thing for thing in scene if sum(key(other) == key(thing) for other in scene) == 1]


def spatial(scene: Scene, rng: random.Random, vertical: float = 0.5) -> Question | None:
    """Left or right, above or below, of two objects whose colours are unique."""
    along_rows = rng.random() < vertical
    place: Callable[[Thing], int] = (lambda t: t.row) if along_rows else (lambda t: t.column)
    unique = _alone(scene, lambda t: t.colour)
    pairs = [(a, b) for a in unique for b in unique if place(a) != place(b)]
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    choices = ["above", "below"] if along_rows else ["left", "right"]
    answer = choices[0] if place(first) < place(second) else choices[1]
    rng.shuffle(choices)
    text = f"is the {first.colour} shape {choices[0]} or {choices[1]} of the {second.colour} shape ?"
    return Question("spatial", text, tuple(choices), answer)


def counting(scene: Scene, rng: random.Random) -> Question:
    """How many shapes in all, of one shape, or of one colour; one to six."""
    kind = rng.choice(("all", "shape", "colour", "shape"))
    if kind == "all":
        text, number = "how many shapes are there ?", len(scene)
    elif kind == "shape":
        shape = rng.choice(scene).shape
        text, number = f"how many {plural(shape)} are there ?", sum(t.shape == shape for t in scene)
    else:
        colour = rng.choice(scene).colour
        text, number = f"how many {colour} shapes are there ?", sum(t.colour == colour for t in scene)
    return Question("counting", text, NUMBERS, NUMBERS[number - 1])


def colour(scene: Scene, rng: random.Random) -> Question | None:
    """The colour of the only object of its shape; four choices."""
    unique = _alone(scene, lambda t: t.shape)
    if not unique:
        return None
    thing = rng.choice(unique)
    choices = [*rng.sample([c for c in COLOURS if c != thing.colour], 3), thing.colour]
    rng.shuffle(choices)
    return Question("colour", f"what colour is the {thing.shape} ?", tuple(choices), thing.colour)


def _find(scene: Scene, rng: random.Random) -> Question | None:
    unique = _alone(scene, lambda t: t.colour)
    if not unique:
        return None
    thing = rng.choice(unique)
    return Question("find", f"where is the {thing.colour} shape ?", (), f"c{thing.column + 1} r{thing.row + 1}")


def _shape(scene: Scene, rng: random.Random) -> Question | None:
    unique = _alone(scene, lambda t: t.colour)
    if not unique:
        return None
    thing = rng.choice(unique)
    return Question("shape", f"what is the {thing.colour} shape ?", SHAPES, thing.shape)


def _exist(scene: Scene, rng: random.Random) -> Question:
    by_colour = rng.random() < 0.5
    present = sorted({t.colour if by_colour else t.shape for t in scene})
    absent = [w for w in (COLOURS if by_colour else SHAPES) if w not in present]
    yes = rng.random() < 0.5 or not absent
    word = rng.choice(present if yes else absent)
    text = f"is there a {word} shape ?" if by_colour else f"is there a {word} ?"
    return Question("exist", text, ("yes", "no"), "yes" if yes else "no")


Mix = tuple[str, ...]
MIX: Mix = ("find", *["spatial"] * 3, *["counting"] * 2, *["colour"] * 2, "shape", "exist")
"""The kinds that training asks, as often as they stand here."""


def ask(scene: Scene, rng: random.Random, mix: Mix = MIX, vertical: float = 0.5) -> Question:
    """A question of a kind drawn from `mix` that this scene allows; small numbers are asked more rarely."""
    for _ in range(30):
        kind = rng.choice(mix)
        question = spatial(scene, rng, vertical) if kind == "spatial" else _ASK[kind](scene, rng)
        if question is not None and not (kind == "counting" and rng.random() > _KEEP.get(question.answer, 1.0)):
            return question
    return _exist(scene, rng)


_KEEP = {"one": 0.35, "two": 0.7}
_ASK: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "counting": counting,
    "colour": colour,
    "find": _find,
    "shape": _shape,
    "exist": _exist,
}
