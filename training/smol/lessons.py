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

from lmms_steer.smol.architecture import AROUND, GLOBAL, IMAGE
from lmms_steer.smol.questions import ask
from lmms_steer.tiny_world.scenes import CELLS, Scene
from training.smol.turns import LISTS, Turn, by_letter, by_word, object_list, series

MIX = {
    "relation": 3, "relation_yesno": 2, "counting": 9, "colour": 2, "shape": 1, "existence": 2, "more": 2, "caption": 1,
}  # fmt: skip
"""Kind of question ▸ how often it is drawn."""
END_WEIGHT = 0.3
"""Loss weight of an answer's end."""
IGNORED = -100


def lesson(scene: Scene, rng: random.Random, questions: int, letters: float) -> list[Turn]:
    """Turns about a scene: a list and questions or, half of the time, a list, two series and two questions.

    Args:
        scene: of at least two objects.
        rng: for every random choice.
        questions: how many, if there are no series.
        letters: the share of questions that are answered by letter; 0: captions are not asked for.
    """
    mix = {kind: often for kind, often in MIX.items() if letters > 0 or kind != "caption"}
    turns = [object_list(scene, rng, rng.choice(LISTS))]
    if rng.random() < 0.5:
        # numbers are the last to be learned, columns are never learned from other turns
        first = "numbers" if letters else "columns"
        turns += [series(scene, rng, kind) for kind in (first, rng.choice(("columns", "rows", "numbers")))]
        questions = min(2, questions)
    wanted = len(turns) + questions
    while len(turns) < wanted:
        (kind,) = rng.choices(list(mix), list(mix.values()))
        question = ask(kind, scene, rng)
        if question is not None:
            lettered = kind == "caption" or rng.random() < letters
            turns.append(by_letter(question, rng) if lettered else by_word(question))
    return turns


def lesson_of_places(scene: Scene, rng: random.Random) -> list[Turn]:
    """A lesson where nearly every answered token says where something is: a list, a series, two relations by word."""
    turns = [object_list(scene, rng, rng.choice(("across", "across", "column", "places")))]
    turns.append(series(scene, rng, "columns"))
    relations = (ask("relation", scene, rng) for _ in range(2))
    return turns + [by_word(question) for question in relations if question is not None]


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
