"""Accuracy by kind of question, by word and by letter, in four styles of pictures, on held-out scenes."""

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from lmms_steer._util.io import write_atomically
from lmms_steer.smol.questions import KINDS, ask, is_held_out
from lmms_steer.tiny_world.scenes import STYLES
from training.smol.lessons import Batch
from training.smol.student import Student
from training.smol.turns import Turn, by_letter, by_word
from training.vision import image_bank

Accuracies = dict[str, dict[str, float]]
"""Kind of question ▸ `word` and `letter` ▸ share of right answers. Captions are asked for by letter only."""
ROWS = 6
"""Packed sequences in a forward pass."""
SEED = 99


@torch.no_grad()
def measure(student: Student, style: str, count: int, letters: bool = True) -> Accuracies:
    """Ask about held-out scenes; an answer is right if greedy decoding gives it token by token, with its end.

    Args:
        student: the model.
        style: of the pictures.
        count: questions of each kind, by word and by letter.
        letters: whether to ask by letter too.
    """
    rng = random.Random(f"{SEED}/{style}")
    asked: dict[tuple[str, bool], int] = defaultdict(int)
    forms = [(kind, form) for kind in KINDS for form in ((False, True) if letters else (False,))]
    forms = [(kind, form) for kind, form in forms if form or kind != "caption"]
    lessons: list[list[Turn]] = []
    scenes, images = image_bank(SEED, 3 * count, 2, style, is_held_out)
    features = student.see(images)
    for scene in scenes:
        turns = []
        for kind, form in forms:
            question = ask(kind, scene, rng) if asked[kind, form] < count else None
            if question is not None:
                asked[kind, form] += 1
                turns.append(by_letter(question, rng, instruction=True) if form else by_word(question))
        if not turns:
            break
        lessons.append(turns)
    right: dict[tuple[str, bool], list[bool]] = defaultdict(list)
    for start in range(0, len(lessons), ROWS):
        part = lessons[start : start + ROWS]
        batch = student.packer.pack(part)
        found = _right(student, batch, features[start : start + len(part)])
        for row, turns in enumerate(part):
            for number, turn in enumerate(turns):
                right[turn.kind, turn.letters].append(bool(found[row][batch.owner[row] == number].all()))
    result: Accuracies = {kind: {} for kind in KINDS}
    for kind, form in forms:
        answers = right[kind, form]
        result[kind]["letter" if form else "word"] = round(sum(answers) / max(1, len(answers)), 3)
    return result


def _right(student: Student, batch: Batch, features: torch.Tensor) -> torch.Tensor:
    """Whether each position predicts its target [rows, length]; True where there is none."""
    hidden = student.hidden(batch, features)
    right = torch.ones_like(batch.owner, dtype=torch.bool)
    answers = batch.owner >= 0
    right[answers] = student.logits(hidden[answers]).argmax(-1) == batch.targets[answers]
    return right


def write_report(folder: Path, facts: dict[str, Any], styles: dict[str, Accuracies]) -> None:
    """Write `report.json` and `report.md`.

    Args:
        folder: of the two files.
        facts: about the training.
        styles: style ▸ accuracies.
    """
    content = json.dumps({**facts, "accuracy": styles}, indent=1) + "\n"
    write_atomically(folder / "report.json", content.encode())
    names = [style for style in STYLES if style in styles]
    head = "| question | " + " | ".join(f"{name}, {form}" for name in names for form in ("word", "letter")) + " |"
    lines = [head, "|---" * (1 + 2 * len(names)) + "|"]
    for kind in KINDS:
        cells = [styles[name][kind].get(form) for name in names for form in ("word", "letter")]
        lines.append(f"| {kind} | " + " | ".join("" if cell is None else f"{cell:.3f}" for cell in cells) + " |")
    ratio = facts["perplexity"]
    text = (
        f"Step {facts['step']} of {facts['steps']}, {facts['questions']} questions a cell, on held-out scenes; no"
        " training picture is in the style moss.\n"
        f"Perplexity of plain text: {ratio['student']}, unmodified {ratio['unmodified']}, ratio {ratio['ratio']}.\n\n"
    )
    write_atomically(folder / "report.md", (text + "\n".join(lines) + "\n").encode())
