"""The text backbone's training samples, as arrays. numpy only: a worker process makes them while the model learns."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmms_steer.tiny_world.ask import LATE_MIX, MIX, ask, with_instruction
from lmms_steer.tiny_world.lexicon import ordinary_sentence
from lmms_steer.tiny_world.sentences import fact, scene_sentence, told
from lmms_steer.tiny_world.tokenizer import BOS, EOS, IMAGE, PAD, encode, vocabulary
from lmms_steer.tiny_world.world import CELLS, Scene, sample_scene, slots

BATCH, LENGTH = 48, 68
QUESTIONS = 4
# Loss weights: an answer, the <eos> after it, what a question says, plain sentences.
ANSWER, STOP, ASKED, PLAIN = 4.0, 1.0, 0.1, 1.0
ORDINARY = 0.13  # share of samples that are ordinary sentences
Mode = Literal["prefix", "causal", "text"]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one batch is drawn from: a seed, the curriculum's largest scene, and whether it is late in training."""

    seed: int
    most: int
    late: bool
    only: Mode | None = None  # for evaluation: questions in this mode alone


class Batch(NamedTuple):
    """ids (B, L); weights (B, L) of the loss for predicting that token; bags (B, 16, 4) word ids of the slots;
    prefix (B,) length of the bidirectional part; slotted (B,) whether the first 16 positions are slots."""

    ids: NDArray[np.int16]
    weights: NDArray[np.float32]
    bags: NDArray[np.int16]
    prefix: NDArray[np.int16]
    slotted: NDArray[np.bool_]


def batch(lesson: Lesson) -> Batch:
    """The batch of a lesson; the same for the same lesson."""
    rng = random.Random(lesson.seed)
    out = Batch(
        np.full((BATCH, LENGTH), PAD, np.int16),
        np.zeros((BATCH, LENGTH), np.float32),
        np.zeros((BATCH, CELLS, 4), np.int16),
        np.zeros(BATCH, np.int16),
        np.zeros(BATCH, np.bool_),
    )
    for row in range(BATCH):
        mode, scene, pieces = _sample(rng, lesson)
        ids, weights = [BOS], [0.0]
        if scene is not None:
            out.slotted[row] = True
            out.bags[row] = bag_ids(scene)
            ids, weights = [IMAGE] * CELLS + ids, [0.0] * (CELLS + 1)
        for number, (text, weight) in enumerate(pieces):
            piece = [EOS] if text is None else encode(text)
            ids += piece
            weights += [weight] * len(piece)
            if number == 0 and mode == "prefix":  # the question is seen as a whole: nothing of it is predicted
                out.prefix[row], weights = len(ids), [0.0] * len(ids)
        length = min(len(ids), LENGTH)
        out.ids[row, :length], out.weights[row, :length] = ids[:length], weights[:length]
    return out


def bag_ids(scene: Scene) -> list[list[int]]:
    """Word ids of the scene's slots, (16, 4); PAD, whose embedding is zero, where a cell is empty."""
    ids = vocabulary()
    return [[ids[word] if word else PAD for word in bag] for bag in slots(scene)]


Piece = tuple[str | None, float]  # a text and its loss weight; None is <eos>


def _sample(rng: random.Random, lesson: Lesson) -> tuple[Mode, Scene | None, list[Piece]]:
    kind = 1.0 if lesson.only else rng.random()
    if kind < ORDINARY:
        return "text", None, [(ordinary_sentence(rng), 0.5) for _ in range(6)]
    if kind < ORDINARY + 0.06:
        return "text", None, [(fact(rng), PLAIN) for _ in range(rng.randint(4, 7))]
    scene = sample_scene(rng, 2 if rng.random() < 0.8 else 1, lesson.most)
    mode: Mode = lesson.only or rng.choices(("text", "causal", "prefix"), (0.2, 0.22, 0.58))[0]
    pieces: list[Piece] = [(told(scene, rng), ASKED)] if mode == "text" else []
    if not lesson.only and mode != "prefix" and rng.random() < 0.28:  # nothing is asked: true sentences follow
        pieces += [(scene_sentence(scene, rng), PLAIN) for _ in range(4)]
    else:
        for _ in range(QUESTIONS):
            question = ask(scene, rng, *((LATE_MIX, 0.65) if lesson.late else (MIX, 0.5)))
            pieces += [(with_instruction(question, rng) + "\n", ASKED), (question.answer, ANSWER), (None, STOP)]
    return mode, None if mode == "text" else scene, pieces


def stream(lessons: list[Lesson]) -> Iterator[Batch]:
    """The lessons' batches in order, made ahead in one worker process."""
    with get_context("spawn").Pool(1) as pool:
        yield from pool.imap(batch, lessons, chunksize=4)
