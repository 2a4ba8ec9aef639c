"""Training samples: several questions about one picture, packed into one sequence.

Each question attends to the picture and to itself only, and its positions continue from the picture's, so a packed
sequence gives exactly the losses of one sequence per question.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmms_steer.scoring.choice import LETTERS
from lmms_steer.smol.architecture import AROUND, GLOBAL, IMAGE
from lmms_steer.smol.questions import PROMPTS, article, ask
from lmms_steer.tiny_world.questions import Question
from lmms_steer.tiny_world.scenes import CELLS, NUMBERS, Scene, plural

INSTRUCTION = "Answer the multiple choice question by only responding the letter of the correct answer. "
"""CV-Bench's instruction, as the tasks have it."""
MIX = {
    "relation": 3, "relation_yesno": 3, "counting": 4, "colour": 2, "shape": 1, "existence": 2, "more": 1, "caption": 1,
}  # fmt: skip
"""Kind of question ▸ how often it is drawn."""
HINTED = 0.2
"""Share of the questions with CV-Bench's instruction that begin with a hint."""
END_WEIGHT, DESCRIPTION_WEIGHT = 0.3, 0.3
"""Loss weights of an answer's end and of a description's words; an answer's words have 1."""
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Turn:
    """A question as it is asked, and its answer.

    Attributes:
        kind: of the question; `description` for a description.
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
        return DESCRIPTION_WEIGHT if self.kind == "description" else 1.0


def by_word(question: Question) -> Turn:
    """The question alone, to be answered by the choice's text."""
    return Turn(question.kind, question.text, question.answer)


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


def description(scene: Scene, rng: random.Random) -> Turn:
    """A list of all objects, which teaches every cell at once: with their places, by row, or with their number."""
    things = sorted(scene)
    kind = rng.randrange(3)
    if kind == 0:
        parts = [f"{thing.name}: row {thing.row + 1}, column {thing.column + 1}" for thing in things]
        return Turn("description", "List the objects and their places.", "\n".join(parts))
    if kind == 1:
        rows = sorted({thing.row for thing in things})
        parts = [f"Row {row + 1}: " + ", ".join(thing.name for thing in things if thing.row == row) for row in rows]
        return Turn("description", "List the objects row by row.", "\n".join(parts))
    shape = rng.choice(things).shape
    chosen = [thing for thing in things if thing.shape == shape]
    listed = ", ".join(f"{article(thing.name)} {thing.name}" for thing in chosen)
    noun = shape if len(chosen) == 1 else plural(shape)
    return Turn("description", f"List the {plural(shape)}.", f"{listed}: {NUMBERS[len(chosen) - 1]} {noun}")


def lesson(scene: Scene, rng: random.Random, questions: int, letters: float) -> list[Turn]:
    """A description and some questions about a scene.

    Args:
        scene: of at least two objects.
        rng: for every random choice.
        questions: how many.
        letters: the share of questions that are answered by letter; 0: captions are not asked for.
    """
    mix = {kind: often for kind, often in MIX.items() if letters > 0 or kind != "caption"}
    turns = [description(scene, rng)]
    while len(turns) <= questions:
        (kind,) = rng.choices(list(mix), list(mix.values()))
        question = ask(kind, scene, rng)
        if question is not None:
            lettered = kind == "caption" or rng.random() < letters
            turns.append(by_letter(question, rng) if lettered else by_word(question))
    return turns


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed sequences, padded on the right.

    Attributes:
        ids: token ids [rows, length].
        positions: position ids [rows, length].
        mask: which positions each one attends to [rows, 1, length, length].
        targets: the id that each position should predict, or `IGNORED` [rows, length].
        weights: loss weights [rows, length].
        owner: number of the turn whose answer is predicted [rows, length].
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    weights: Tensor
    owner: Tensor


class Packer:
    """Turns lessons into batches.

    Args:
        tokenizer: of the multimodal model.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._end = tokenizer.eos_token_id
        before = f"<|im_start|>user\n{AROUND}{GLOBAL}"
        self.prefix = self._encode(before + IMAGE * CELLS + AROUND)
        self.image = slice(len(self._encode(before)), len(self._encode(before)) + CELLS)
        """Where the image tokens are in a row."""

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def pack(self, lessons: Sequence[Sequence[Turn]]) -> Batch:
        """Pack one lesson per row."""
        rows = [self._row(turns) for turns in lessons]
        shape = (len(rows), -(-max(len(row[0]) for row in rows) // 8) * 8)
        ids, positions = torch.full(shape, self._end), torch.zeros(shape, dtype=torch.long)
        part, targets = torch.full(shape, -1), torch.full(shape, IGNORED)
        weights, owner = torch.zeros(shape), torch.full(shape, -1)
        for i, row in enumerate(rows):
            for tensor, values in zip((ids, positions, part, targets, weights, owner), row, strict=True):
                tensor[i, : len(values)] = torch.tensor(values, dtype=tensor.dtype)
        same = (part[:, :, None] == part[:, None]) | (part[:, None] == 0) & (part[:, :, None] > 0)
        causal = torch.ones(shape[1], shape[1], dtype=torch.bool).tril()
        return Batch(ids, positions, (same & causal)[:, None], targets, weights, owner)

    def _row(self, turns: Sequence[Turn]) -> tuple[list[Any], ...]:
        ids, start = list(self.prefix), len(self.prefix)
        positions, part = list(range(start)), [0] * start
        targets, weights, owner = [IGNORED] * start, [0.0] * start, [-1] * start
        for number, turn in enumerate(turns, start=1):
            asked = self._encode(f"{turn.text}<|im_end|>\n<|im_start|>assistant\n")
            answer = [*self._encode(turn.answer), self._end]
            tokens = asked + answer[:-1]
            silent = len(asked) - 1
            ids += tokens
            positions += range(start, start + len(tokens))
            part += [number] * len(tokens)
            targets += [IGNORED] * silent + answer
            weights += [0.0] * silent + [turn.weight] * (len(answer) - 1) + [END_WEIGHT * turn.weight]
            owner += [-1] * silent + [number - 1] * len(answer)
        return ids, positions, part, targets, weights, owner
