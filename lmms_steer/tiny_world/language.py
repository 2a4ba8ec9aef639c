"""The training sentences of the tiny backbone: about scenes, about the world, and like those of the concepts."""

import random
import re
from functools import cache

from lmms_steer import concepts
from lmms_steer.tiny_world.scenes import COLOURS, GRID, NUMBERS, OPPOSITE, SHAPES, Scene, Thing, plural, relation

PROMPTS = {
    "spatial": "look carefully at where each shape is .",
    "counting": "count the shapes one by one .",
    "colour": "look carefully at the colour of each shape .",
}
"""Task ▸ the instruction of the prompting baseline."""

HINTS = (
    *PROMPTS.values(),
    "look at the image .",
    "look at the left side and the right side .",
    "count every shape in the image .",
    "find the colour of the shape .",
)
"""Instructions before some training questions, so that the prompting baseline is in distribution."""

UNREAD = ("movement-", "pitch-")
"""Beginnings of the names of concepts that came after the training, so that the vocabulary is without their words."""
THINGS = {
    "red": ("tomato", "cherry"),
    "orange": ("carrot", "pumpkin"),
    "yellow": ("lemon", "banana"),
    "green": ("leaf", "grass"),
    "blue": ("sky", "sea"),
    "purple": ("plum", "grape"),
    "pink": ("rose", "pig"),
    "white": ("snow", "milk"),
}
_ALL_THINGS = tuple(thing for things in THINGS.values() for thing in things)

# Words of one class can replace one another in a concept's sentence. Words of no class are not replaced.
_CLASSES = tuple(
    tuple(words.split())
    for words in (
        "apple bag ball barn bed bird blanket boat book bottom box bread bridge brother cart cat cellar chair"
        " child clock corner cup dog door farmer fence field fire fish flag flower friend garden gate girl hand"
        " harbour hat hill horse house key kitchen lake lamp leaf letter map market mirror mother page path piano"
        " plate ribbon ring river road roof room sand school ship shop side sister sofa soup spider stone story"
        " table teacher top tower train tree village wall water well window boy car baker bank man floor",
        "birds boots chairs children coins days dogs eggs horses leaves legs loaves maps numbers pages people"
        " plates roses ships stars stones tickets windows",
        "absent black blue bright broken careful clean closed cold dark empty false green grey heavy hot"
        " impossible late long missing new old open orange pink purple quiet red ready round silver slow small"
        " smooth soft square tall thick white wide wooden yellow big",
        "above across behind below beside near under over inside outside into",
        "one two three four five six seven eight nine ten twelve several many few",
        "bigger brighter colder darker faster heavier lighter longer older shorter slower smaller taller warmer"
        " younger better worse",
        "builds carries climbs closes cooks drinks eats opens paints pulls pushes reads throws washes writes holds",
        "dances flies jumps plays runs sings sleeps swims waits works",
        "always never often still soon finally today tomorrow yesterday now then later again early",
        "my our her his your the",
    )
)


@cache
def _class_of() -> dict[str, tuple[str, ...]]:
    return {word: words for words in _CLASSES for word in words}


def words_of(text: str) -> list[str]:
    """Split a text as the tiny tokenizer does: in lower case, into words, single punctuation marks and newlines."""
    return re.findall(r"\n|[a-z0-9]+|[^\sa-z0-9]", text.lower())


@cache
def _shipped_sentences() -> tuple[tuple[str, ...], ...]:
    read = [c for c in concepts.shipped() if not c.name.startswith(UNREAD)]
    sentences = {tuple(words_of(p.sentence)) for c in read for p in (*c.pairs, *c.contrast)}
    return tuple(sorted(sentences))


@cache
def _shipped_set() -> frozenset[tuple[str, ...]]:
    return frozenset(_shipped_sentences())


def ordinary_sentence(rng: random.Random) -> str:
    """A sentence like those of the concepts, but never one of them: some words are replaced within their class."""
    while True:
        shipped = rng.choice(_shipped_sentences())
        words = [rng.choice(_class_of().get(word, (word,))) if rng.random() < 0.6 else word for word in shipped]
        if tuple(words) not in _shipped_set():
            return " ".join(words)


def describe(scene: Scene, rng: random.Random) -> str:
    """A list of the scene's objects and their cells, in random order."""
    things = rng.sample(scene, len(scene))
    return "scene : " + " , ".join(f"{t.name} c{t.column + 1} r{t.row + 1}" for t in things) + " ."


def scene_sentence(scene: Scene, rng: random.Random) -> str:
    """A true sentence about the position or the number of objects."""
    if len(scene) > 1 and rng.random() < 0.65:
        first, second = rng.sample(scene, 2)
        word = relation(first, second, rng)
        if word is not None:
            return _relation_sentence(first, second, word, rng)
    return _count_sentence(scene, rng)


def _relation_sentence(a: Thing, b: Thing, word: str, rng: random.Random) -> str:
    return rng.choice(
        (
            f"the {a.name} is {word} of the {b.name} .",
            f"the {a.name} is {word} relative to the {b.name} .",
            f"the {a.name} is {word} of the {b.name} , so the {b.name} is {OPPOSITE[word]} of the {a.name} .",
            f"the {a.name} is in the {word} side , relative to the {b.name} .",
        )
    )


def _count_sentence(scene: Scene, rng: random.Random) -> str:
    kind = rng.randrange(3)
    if kind == 0:
        return f"there are {NUMBERS[len(scene) - 1]} shapes in the image ."
    if kind == 1:
        shape = rng.choice(scene).shape
        return f"the number of {plural(shape)} is {NUMBERS[sum(t.shape == shape for t in scene) - 1]} ."
    colour = rng.choice(scene).colour
    return f"there are {NUMBERS[sum(t.colour == colour for t in scene) - 1]} {colour} shapes ."


def world_sentence(rng: random.Random) -> str:
    """A sentence that is true without any scene: what is red, what comes after three, the opposite of left."""
    kind = rng.randrange(7)
    colour = rng.choice(tuple(COLOURS))
    if kind == 0:
        return f"the {rng.choice(THINGS[colour])} is {colour} ."
    if kind == 1:
        a = rng.randint(1, 5)
        b = rng.randint(1, 6 - a)
        return f"{NUMBERS[a - 1]} plus {NUMBERS[b - 1]} is {NUMBERS[a + b - 1]} ."
    if kind == 2:
        i = rng.randrange(5)
        return f"after {NUMBERS[i]} comes {NUMBERS[i + 1]} ."
    if kind == 3:
        word = rng.choice(tuple(OPPOSITE))
        return f"{word} is the opposite of {OPPOSITE[word]} ."
    if kind == 4:
        return f"a {colour} {rng.choice(THINGS[colour])} is near the {rng.choice(_ALL_THINGS)} ."
    members, what = rng.choice(((tuple(OPPOSITE), "direction"), (tuple(COLOURS), "colour"), (NUMBERS, "number")))
    if kind == 5:
        three = rng.sample(members, 3)
        return f"{three[0]} , {three[1]} and {three[2]} are {what}s ."
    return f"{rng.choice(members)} is a {what} ."


def vocabulary() -> list[str]:
    """Every word that the tokenizer knows, in the order of the ids after the special tokens.

    A new word in a concept's sentences changes the tokenizer, so that the checkpoints have to be trained again.
    """
    world = [*COLOURS, *SHAPES, *map(plural, SHAPES), *NUMBERS, *OPPOSITE, "yes", "no", "empty"]
    places = [f"{axis}{i}" for axis in "cr" for i in range(1, GRID + 1)]
    glue = (
        "scene : , . ? ! ' - ( ) the a of is or are where how many what colour shape shapes there relative to"
        " and so plus numbers number colours directions direction opposite in image list it after comes near"
        " side select from the following choices answer en b c d e f each every at by carefully count find"
        " look"
    ).split()
    classes = [word for words in _CLASSES for word in words]
    sentences = [word for sentence in (*_shipped_sentences(), *map(words_of, HINTS)) for word in sentence]
    return list(dict.fromkeys([*world, *places, *_ALL_THINGS, *glue, *classes, *sentences]))
