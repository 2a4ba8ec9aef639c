"""Screen: what one forward and backward pass says of every layer and target at once, to leave the hopeless ones out.

The margin of the right answer over the best other has a gradient at each layer's output; its product with a vector,
summed over a target's positions, is the margin's slope in alpha. Where a straight line along it would flip answers to
the right side, a cell may gain. True margins bend: this orders and cuts, and is reported nowhere.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from lmms_steer._util.io import write_atomically
from lmms_steer.models.batches import ShrinkingRunner
from lmms_steer.search.plan import Cell
from lmms_steer.search.questions import Question
from lmms_steer.search.scorers import LetterScorer
from lmms_steer.search.selection import Floats
from lmms_steer.search.strategies.halving import rung_ends
from lmms_steer.steering.anatomy import decoder_layers, image_token_ids
from lmms_steer.steering.positions import token_mask
from lmms_steer.vectors.steering_vectors import SteeringVectors

KEPT = 1 / 3
"""Of a vector's pairs of layer and target."""
Slope = tuple[str, int, str]
"""Vector, layer, target."""


def screened(n: int) -> int:
    """How many questions a screen of a study of `n` looks at: those of a race's first rung."""
    return rung_ends(n)[0]


class Screen:
    """
    Args:
        lm: the unsteered model.
        vectors: by the names that cells use.
    """

    def __init__(self, lm: Any, vectors: Mapping[str, SteeringVectors]) -> None:
        self.lm, self.vectors = lm, vectors

    def cut(self, cells: Sequence[Cell], asked: Sequence[Question], batch_size: int, folder: Path) -> list[Cell]:
        """The cells that are worth asking, judged on the first questions of a study; its folder keeps `screen.json`."""
        path = folder / "screen.json"
        with FileLock(path.with_suffix(".lock")):
            if not path.is_file():
                shares = self.shares(cells, asked[: screened(len(asked))], batch_size)
                write_atomically(path, json.dumps(shares).encode())
            return promising(cells, json.loads(path.read_text(encoding="utf-8")))

    def shares(self, cells: Sequence[Cell], asked: Sequence[Question], batch_size: int) -> list[float]:
        """For each cell the share of questions that it would answer rightly if margins were straight."""
        right, fitting = np.zeros(len(cells)), ShrinkingRunner()
        for first in range(0, len(asked), batch_size):
            batch = asked[first : first + batch_size]
            right += np.sum(fitting.run(batch, partial(self._right, cells)), axis=0)
        shares: list[float] = (right / len(asked)).tolist()
        return shares

    def _right(self, cells: Sequence[Cell], batch: Sequence[Question]) -> list[Floats]:
        """For each question, float [cells]: 1 where it would be answered rightly."""
        margin, slopes = self._slopes(batch, cells)
        lines = [margin + cell.alpha * slopes[cell.vector, cell.layer, cell.tokens] for cell in cells]
        return [(column > 0).double().numpy() for column in torch.stack(lines, 1)]

    def _slopes(self, batch: Sequence[Question], cells: Sequence[Cell]) -> tuple[Tensor, dict[Slope, Tensor]]:
        """The right answer's margin [questions], and for (vector, layer, target) its slope in alpha [questions]."""
        inputs = self.lm.model_inputs([q.text for q in batch], [q.visuals for q in batch])
        margin, gradients = gradients_of_margin(self.lm.model, inputs, LetterScorer(self.lm, batch))
        ids, attention = inputs["input_ids"], inputs.get("attention_mask")
        image_ids = image_token_ids(self.lm.model.config)
        special = getattr(self.lm.tokenizer, "all_special_ids", ())
        masks = {t: token_mask(ids, attention, image_ids, t, special_ids=special) for t in {c.tokens for c in cells}}
        slopes = {}
        for vector, layer, tokens in {(c.vector, c.layer, c.tokens) for c in cells}:
            gradient = gradients[layer].float()
            direction = torch.from_numpy(self.vectors[vector][layer].copy()).to(gradient)
            slopes[vector, layer, tokens] = ((gradient @ direction) * masks[tokens]).sum(1).cpu()
        return margin, slopes


def gradients_of_margin(model: Any, inputs: Mapping[str, Any], letters: LetterScorer) -> tuple[Tensor, list[Tensor]]:
    """The margin [questions] of right answers; its gradient at each layer's output [questions, positions, width]."""
    layers = decoder_layers(model)
    outputs: list[Tensor] = []

    def entering(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # weights are frozen: the residual stream is what a gradient is wanted of
        hidden = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_()
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    def leaving(_: Any, __: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)
        outputs[-1].retain_grad()

    handles = [layers[0].register_forward_pre_hook(entering, with_kwargs=True)]
    handles += [layer.register_forward_hook(leaving) for layer in layers]
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            margin = letters.margin(model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1])
            margin.sum().backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
        for parameter in wanted:
            parameter.requires_grad_(True)
    return margin.detach().cpu(), [output.grad for output in outputs if output.grad is not None]


def promising(cells: Sequence[Cell], shares: Sequence[float]) -> list[Cell]:
    """The cells of those layers and targets where some strength promises most, a third of each vector's."""
    kept: set[Slope] = set()
    for vector in dict.fromkeys(cell.vector for cell in cells):
        most: dict[Slope, float] = {}
        for cell, share in zip(cells, shares, strict=True):
            if cell.vector == vector:
                pair = (vector, cell.layer, cell.tokens)
                most[pair] = max(share, most.get(pair, 0.0))
        order = sorted(most, key=lambda pair: (-most[pair], pair))
        kept |= set(order[: max(1, round(KEPT * len(order)))])
    return [cell for cell in cells if (cell.vector, cell.layer, cell.tokens) in kept]
