"""Every layer x alpha x token target, each on every question of the selection split; then the best."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmms_steer.search.replay import Replay
from lmms_steer.vectors import SteeringVectors

ALPHAS = (0.1, 0.25, 0.5, 1.0, 2.0)
TOKENS = ("image", "text", "both")


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting, and the share of questions whose next token is the answer's first."""

    layer: int
    alpha: float
    tokens: str
    accuracy: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Questions:
    """A selection split in batches that are ready to be steered.

    Args:
        batches: for each batch the replay, and the id of the right answer's first token [batch].
    """

    def __init__(self, batches: Iterable[tuple[Replay, Tensor]]) -> None:
        self.batches = list(batches)

    def logits(self) -> Tensor:
        """The unsteered next-token logits of all questions."""
        return torch.cat([replay.base for replay, _ in self.batches])

    def baseline(self) -> float:
        return float(np.mean(torch.cat([r.base.argmax(-1) == answer for r, answer in self.batches]).numpy()))

    def accuracy(self, layer: int, delta: Tensor, tokens: str) -> float:
        right = [replay.steer(layer, delta, tokens).argmax(-1) == answer for replay, answer in self.batches]
        return float(torch.cat(right).float().mean())


def search(
    questions: Questions, vectors: SteeringVectors, alphas: Sequence[float] = ALPHAS, tokens: Sequence[str] = TOKENS
) -> list[Cell]:
    """All cells. At image tokens of the last layer nothing reaches the answer any more: left out."""
    cells = []
    for layer, target, alpha in product(vectors, tokens, alphas):
        if layer == vectors.layers[-1] and target == "image":
            continue
        delta = torch.from_numpy(vectors[layer].copy()) * alpha
        cells.append(Cell(layer, alpha, target, questions.accuracy(layer, delta, target)))
    return cells


def best(cells: Sequence[Cell]) -> Cell:
    """The most accurate cell; of equals the weakest (as in the paper), then the lowest layer."""
    return min(cells, key=lambda c: (-c.accuracy, c.alpha, c.layer, TOKENS.index(c.tokens)))
