"""Questions about a scene, with the choices and the correct answer, all in words of the tiny vocabulary."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from lmms_steer.tiny_world.scenes import COLOURS, NUMBERS, SHAPES, Scene, Thing, plural

Mix = tuple[str, ...]
"""Kinds of questions, each as often as it is to be drawn."""
MIX: Mix = ("find", *["spatial"] * 3, *["counting"] * 2, *["colour"] * 2, "shape", "exist")
"""The kinds in training."""
_ACCEPTED = {"one": 0.35, "two": 0.7}
"""Answer ▸ the share of counting questions that is kept; all of the others."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a scene.

    Attributes:
        kind: spatial, counting, colour, find, shape or exist.
        text: the question.
        choices: the possible answers; empty for `find`.
        answer: the correct answer.
        group: a part of the questions of its kind; "" for none.
    """

    kind: str
    text: str
    choices: tuple[str, ...]
    answer: str
    group: str = ""


def spatial(scene: Scene, rng: random.Random, vertical: float = 0.5) -> Question | None:
    """Whether an object is left or right of another one (or above or below), for two objects of unique colours.

    Args:
        scene: to ask about.
        rng: for every random choice.
        vertical: the probability of above or below.

    Returns:
        The question, or None if the scene has no such objects.
    """
    is_vertical = rng.random() < vertical
    place: Callable[[Thing], int] = (lambda t: t.row) if is_vertical else (lambda t: t.column)
    unique = _unique(scene, lambda t: t.colour)
    pairs = [(a, b) for a in unique for b in unique if place(a) != place(b)]
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    choices = ["above", "below"] if is_vertical else ["left", "right"]
    answer = choices[0] if place(first) < place(second) else choices[1]
    rng.shuffle(choices)
    text = f"is the {first.colour} shape {choices[0]} or {choices[1]} of the {second.colour} shape ?"
    return Question("spatial", text, tuple(choices), answer)


def counting(scene: Scene, rng: random.Random) -> Question:
    """The number of objects: of all, of those of one shape, or of those of one colour; one to six."""
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
    """The colour of an object of a unique shape, with four choices; None if the scene has no such object."""
    unique = _unique(scene, lambda t: t.shape)
    if not unique:
        return None
    thing = rng.choice(unique)
    choices = [*rng.sample([c for c in COLOURS if c != thing.colour], 3), thing.colour]
    rng.shuffle(choices)
    return Question("colour", f"what colour is the {thing.shape} ?", tuple(choices), thing.colour)


def ask(scene: Scene, rng: random.Random, mix: Mix = MIX, vertical: float = 0.5) -> Question:
    """A question of a kind drawn from `mix` that this scene allows. Counting questions with small answers are rarer."""
    for _ in range(30):
        kind = rng.choice(mix)
        question = spatial(scene, rng, vertical) if kind == "spatial" else _ASK[kind](scene, rng)
        if question is not None and not (kind == "counting" and rng.random() > _ACCEPTED.get(question.answer, 1.0)):
            return question
    return _exist(scene, rng)


def _unique(scene: Scene, key: Callable[[Thing], str]) -> list[Thing]:
    """The objects whose key (colour or shape) no other object has."""
    return [thing for thing in scene if sum(key(other) == key(thing) for other in scene) == 1]


def _find(scene: Scene, rng: random.Random) -> Question | None:
    unique = _unique(scene, lambda t: t.colour)
    if not unique:
        return None
    thing = rng.choice(unique)
    return Question("find", f"where is the {thing.colour} shape ?", (), f"c{thing.column + 1} r{thing.row + 1}")


def _shape(scene: Scene, rng: random.Random) -> Question | None:
    unique = _unique(scene, lambda t: t.colour)
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


_ASK: dict[str, Callable[[Scene, random.Random], Question | None]] = {
    "counting": counting,
    "colour": colour,
    "find": _find,
    "shape": _shape,
    "exist": _exist,
}
