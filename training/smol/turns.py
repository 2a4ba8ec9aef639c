"""What is asked in training: questions by word or by letter, lists of objects, and series of short answers."""

import random
from dataclasses import dataclass

from lmms_steer.scoring.choice import LETTERS
from lmms_steer.smol.questions import PROMPTS, article, reference
from lmms_steer.tiny_world.questions import Question
from lmms_steer.tiny_world.scenes import NUMBERS, Scene, plural

INSTRUCTION = "Answer the multiple choice question by only responding the letter of the correct answer. "
"""CV-Bench's instruction, as the tasks have it."""
HINTED = 0.2
"""Share of the questions with CV-Bench's instruction that begin with a hint."""
LISTS = ("places", "row", "column", "across", "shape")
"""Objects with their places, by row or column, from left to right, or those of a shape with their number."""
LIST_WEIGHT = 0.5
"""Loss weight of a list's words; an answer's words have 1."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A question as it is asked, and its answer.

    Attributes:
        kind: of the question, or `list` or `series`.
        text: what the user says.
        answer: what the model should say.
        letters: whether the answer is a choice's letter.
    """

    kind: str
    text: str
    answer: str
    letters: bool = False

    @property
    def weight(self) -> float:
        return LIST_WEIGHT if self.kind == "list" else 1.0


def by_word(question: Question) -> Turn:
    """The question alone, to be answered by the choice's text. CV-Bench's about a relation has two right answers, so
    its choices follow."""
    text = question.text
    if question.kind == "relation" and question.answer not in text:
        first, second = question.choices
        text = f"{text} {first.capitalize()} or {second}?"
    return Turn(question.kind, text, question.answer)


def by_letter(question: Question, rng: random.Random, instruction: bool | None = None) -> Turn:
    """The question with its choices in CV-Bench's wording; numbers are shown as digits more often than as words.

    Args:
        question: with its choices.
        rng: for random choices.
        instruction: whether CV-Bench's instruction comes first; None: half of the time, sometimes after a hint.
    """
    digits = {word: str(number) for number, word in enumerate(NUMBERS, start=1)} if rng.random() < 0.6 else {}
    listed = "\n".join(
        f"({letter}) {digits.get(choice, choice)}" for letter, choice in zip(LETTERS, question.choices, strict=False)
    )
    hint = ""
    if instruction is None:
        instruction = rng.random() < 0.5
        hint = f"{rng.choice(list(PROMPTS.values()))} " if instruction and rng.random() < HINTED else ""
    before = INSTRUCTION if instruction else ""
    text = f"{hint}{before}{question.text} Select from the following choices.\n{listed}"
    return Turn(question.kind, text, f"({LETTERS[question.choices.index(question.answer)]})", letters=True)


def object_list(scene: Scene, rng: random.Random, kind: str) -> Turn:
    """A list of objects, which teaches many cells at once.

    Args:
        scene: of at least one object.
        rng: for random choices.
        kind: one of `LISTS`.
    """
    things = sorted(scene)
    if kind == "places":
        parts = [f"{thing.name}: row {thing.row + 1}, column {thing.column + 1}" for thing in things]
        return Turn("list", "List the objects and their places.", "\n".join(parts))
    if kind in ("row", "column"):
        lines = [thing.row if kind == "row" else thing.column for thing in things]
        parts = [
            f"{kind.capitalize()} {number + 1}: "
            + ", ".join(thing.name for thing, line in zip(things, lines, strict=True) if line == number)
            for number in sorted(set(lines))
        ]
        return Turn("list", f"List the objects {kind} by {kind}.", "\n".join(parts))
    if kind == "across":
        names = [reference(thing, scene, rng) for thing in sorted(things, key=lambda thing: (thing.column, thing.row))]
        return Turn("list", "List the objects from left to right.", ", ".join(names))
    shape = rng.choice(things).shape
    chosen = [thing for thing in things if thing.shape == shape]
    listed = ", ".join(f"{article(thing.name)} {thing.name}" for thing in chosen)
    noun = shape if len(chosen) == 1 else plural(shape)
    return Turn("list", f"List the {plural(shape)}.", f"{listed}: {NUMBERS[len(chosen) - 1]} {noun}")


def series(scene: Scene, rng: random.Random, kind: str) -> Turn:
    """Several short answers in one: the `columns` or `rows` of all objects, in random order, or `numbers` of objects.

    A relation is one answer in 30 tokens, and needs two columns: from relations alone they were never learned.
    """
    if kind == "numbers":
        groups = {plural(thing.shape): sum(other.shape == thing.shape for other in scene) for thing in scene}
        groups |= {f"{thing.colour} objects": sum(o.colour == thing.colour for o in scene) for thing in scene}
        asked = rng.sample(list(groups), min(4, len(groups)))
        numbers = [NUMBERS[groups[group] - 1] for group in asked]
        return Turn("series", f"How many of each: {', '.join(asked)}?", ", ".join(numbers))
    things = rng.sample(scene, len(scene))
    names = ", ".join(reference(thing, scene, rng) for thing in things)
    places = [thing.column if kind == "columns" else thing.row for thing in things]
    return Turn("series", f"Name the {kind} of these objects: {names}.", ", ".join(str(place + 1) for place in places))
