"""Questions in ordinary English about scenes of the tiny world, each with its choices and the correct answer.

In training a question has one of several wordings. In a benchmark's task it has the first: CV-Bench's for relation and
counting, and POPE's for existence.
"""

import hashlib
import json
import random
from collections.abc import Callable, Sequence

from lmms_steer.tiny_world.questions import Question
from lmms_steer.tiny_world.scenes import COLOURS, NUMBERS, SHAPES, Scene, Thing, plural

Ask = Callable[[Scene, random.Random, bool], Question | None]
"""Draws a question about a scene, in the benchmark's wording or in any; None if the scene allows none."""
YES_NO = ("yes", "no")
"""In this order wherever they are listed, as in BLINK."""
PROMPTS = {
    "relation": "Look carefully at where each object is.",
    "counting": "Count the objects one by one.",
    "colour": "Look carefully at the colour of each object.",
    "existence": "Look at every object before you answer.",
}
"""Task ▸ the instruction of the prompting baseline. Some training questions have one, so that it is in distribution."""


def is_held_out(scene: Scene) -> bool:
    """Whether a scene is for testing: one in eight, by its hash. The model is never trained on these."""
    things = json.dumps([[thing.cell, thing.colour, thing.shape] for thing in sorted(scene)])
    return hashlib.sha256(things.encode()).digest()[0] % 8 == 0


def _relation(scene: Scene, rng: random.Random, benchmark: bool) -> Question | None:
    """Where one object is relative to another: left or right, or above or below."""
    drawn = _pair(scene, rng)
    if drawn is None:
        return None
    first, second, words, answer = drawn
    a, b = reference(first, scene, rng), reference(second, scene, rng)
    choices = rng.sample(words, 2)
    here = " or ".join(w if w in ("above", "below") else f"to the {w}" for w in choices)
    link = "" if answer in ("above", "below") else " of"
    text = _wording(
        (
            f"Considering the relative positions of the {a} and the {b} in the image provided, where is the {a} located"
            f" with respect to the {b}?",
            f"Is the {a} {here}{link} the {b}?",
            f"Where is the {a}, seen from the {b}: {choices[0]} or {choices[1]}?",
        ),
        rng,
        benchmark,
    )
    return Question("relation", text, tuple(choices), answer)


def _relation_yesno(scene: Scene, rng: random.Random, benchmark: bool) -> Question | None:  # noqa: ARG001
    """Whether an object is left of another one, or right of it, above or below."""
    drawn = _pair(scene, rng)
    if drawn is None:
        return None
    first, second, words, answer = drawn
    word = rng.choice(words)
    where = place(word)
    text = f"Is the {reference(first, scene, rng)} {where} the {reference(second, scene, rng)}?"
    return Question("relation_yesno", text, YES_NO, "yes" if word == answer else "no")


def _counting(scene: Scene, rng: random.Random, benchmark: bool) -> Question | None:
    """How many objects there are, of all, of one shape or of one colour: one to six, with four choices."""
    kind = rng.choice(("all", "shape", "colour", "shape"))
    if kind == "all":
        what, number = _wording(("objects", "shapes", "things"), rng, benchmark), len(scene)
    elif kind == "shape":
        shape = rng.choice(scene).shape
        what, number = plural(shape), sum(thing.shape == shape for thing in scene)
    else:
        colour_ = rng.choice(scene).colour
        noun = _wording(("objects", "shapes", "things"), rng, benchmark)
        what, number = f"{colour_} {noun}", sum(thing.colour == colour_ for thing in scene)
    # small numbers are common in these scenes: without this, a model learns to say one
    if number < 3 and rng.random() < (0.6, 0.3)[number - 1]:
        return None
    text = _wording((f"How many {what} are in the image?", f"How many {what} are there?"), rng, benchmark)
    others = rng.sample([n for n in NUMBERS if n != NUMBERS[number - 1]], 3)
    return Question("counting", text, _shuffled([NUMBERS[number - 1], *others], rng), NUMBERS[number - 1])


def _colour(scene: Scene, rng: random.Random, benchmark: bool) -> Question | None:
    """The colour of an object of a unique shape, with four choices."""
    thing = _unique(scene, rng, lambda t: t.shape)
    if thing is None:
        return None
    text = _wording(
        (
            f"What is the color of the {thing.shape} in the image?",
            f"What colour is the {thing.shape}?",
            f"Which colour does the {thing.shape} have?",
        ),
        rng,
        benchmark,
    )
    others = rng.sample([c for c in COLOURS if c != thing.colour], 3)
    return Question("colour", text, _shuffled([thing.colour, *others], rng), thing.colour)


def _shape(scene: Scene, rng: random.Random, benchmark: bool) -> Question | None:
    """The shape of an object of a unique colour."""
    thing = _unique(scene, rng, lambda t: t.colour)
    if thing is None:
        return None
    text = _wording((f"What shape is the {thing.colour} object?", f"What is the {thing.colour} thing?"), rng, benchmark)
    return Question("shape", text, _shuffled(SHAPES, rng), thing.shape)


def _existence(scene: Scene, rng: random.Random, benchmark: bool) -> Question | None:
    """Whether there is an object; of absent ones, half share a word with what there is."""
    present = {thing.name for thing in scene}
    if rng.random() < 0.5:
        thing = rng.choice(scene)
        name = rng.choice((thing.name, thing.name, thing.shape, f"{thing.colour} object"))
        return existence_of(name, True, rng, benchmark)
    colours, shapes = {thing.colour for thing in scene}, {thing.shape for thing in scene}
    near = [f"{c} {s}" for c in COLOURS for s in SHAPES if c in colours or s in shapes]
    anything = [f"{c} {s}" for c in COLOURS for s in SHAPES]
    anything += [s for s in SHAPES if s not in shapes] + [f"{c} object" for c in COLOURS if c not in colours]
    absent = [name for name in rng.choice((near, anything)) if name not in present]
    return existence_of(rng.choice(absent), False, rng, benchmark) if absent else None


def existence_of(name: str, is_there: bool, rng: random.Random, benchmark: bool = True) -> Question:
    """The question about an object of this name."""
    text = f"Is there {article(name)} {name} in the {_wording(('image', 'picture'), rng, benchmark)}?"
    return Question("existence", text, YES_NO, "yes" if is_there else "no")


def _more(scene: Scene, rng: random.Random, benchmark: bool) -> Question | None:  # noqa: ARG001
    """Whether there are more objects of one colour or shape than of another."""
    groups = [(plural(s), sum(t.shape == s for t in scene)) for s in SHAPES]
    groups += [(f"{c} objects", sum(t.colour == c for t in scene)) for c in sorted({t.colour for t in scene})]
    (one, n), (other, m) = rng.sample(groups, 2)
    if n == m:
        return None
    text, answer = f"Are there more {one} than {other}?", "yes" if n > m else "no"
    return Question("more", text, YES_NO, answer)


def _caption(scene: Scene, rng: random.Random, benchmark: bool) -> Question | None:  # noqa: ARG001
    """Which of two captions describes the image, as in What'sUp; they differ in the relation of two objects."""
    drawn = _pair(scene, rng)
    if drawn is None:
        return None
    first, second, words, answer = drawn
    a, b = reference(first, scene, rng), reference(second, scene, rng)
    captions = {word: f"{article(a).capitalize()} {a} {place(word)} {article(b)} {b}" for word in words}
    choices = rng.sample(list(captions.values()), 2)
    return Question("caption", "Which caption describes the image?", tuple(choices), captions[answer])


def ask(kind: str, scene: Scene, rng: random.Random, benchmark: bool = False) -> Question | None:
    """A question of a kind.

    Args:
        kind: one of `KINDS`.
        scene: to ask about.
        rng: for every random choice.
        benchmark: whether to use the benchmark's wording, and not any.

    Returns:
        The question, or None if the scene allows none.
    """
    return _ASK[kind](scene, rng, benchmark)


def place(word: str) -> str:
    """The words for a relation in `A is … B`: `above`, `to the left of`."""
    return word if word in ("above", "below") else f"to the {word} of"


def article(name: str) -> str:
    """The indefinite article of a name."""
    return "an" if name[0] in "aeiou" else "a"


def reference(thing: Thing, scene: Scene, rng: random.Random) -> str:
    """A phrase that fits only this object."""
    phrases = [thing.name]
    if sum(other.colour == thing.colour for other in scene) == 1:
        phrases.append(f"{thing.colour} {rng.choice(('object', 'shape', 'thing'))}")
    if sum(other.shape == thing.shape for other in scene) == 1:
        phrases.append(thing.shape)
    return rng.choice(phrases)


def _wording(texts: Sequence[str], rng: random.Random, benchmark: bool) -> str:
    return texts[0] if benchmark else rng.choice(texts)


def _pair(scene: Scene, rng: random.Random) -> tuple[Thing, Thing, tuple[str, str], str] | None:
    """Two objects, the two words for their relation along one axis, and the right one of these."""
    vertical = rng.random() < 0.5
    along: Callable[[Thing], int] = (lambda t: t.row) if vertical else (lambda t: t.column)
    pairs = [(a, b) for a in scene for b in scene if along(a) != along(b)]
    if not pairs:
        return None
    first, second = rng.choice(pairs)
    words = ("above", "below") if vertical else ("left", "right")
    return first, second, words, words[along(first) > along(second)]


def _unique(scene: Scene, rng: random.Random, key: Callable[[Thing], str]) -> Thing | None:
    """An object whose key (colour or shape) no other object has."""
    things = [thing for thing in scene if sum(key(other) == key(thing) for other in scene) == 1]
    return rng.choice(things) if things else None


def _shuffled(choices: list[str] | tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
    return tuple(rng.sample(choices, len(choices)))


_ASK: dict[str, Ask] = {
    "relation": _relation,
    "relation_yesno": _relation_yesno,
    "counting": _counting,
    "colour": _colour,
    "shape": _shape,
    "existence": _existence,
    "more": _more,
    "caption": _caption,
}
KINDS = tuple(_ASK)
"""Every kind of question."""
