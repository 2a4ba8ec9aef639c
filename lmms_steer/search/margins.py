"""How steering would move each question's margin, from one forward and backward pass.

The margin of the correct answer over the best other has a gradient at each layer's output. Its product with a vector,
summed over a target's positions, is the margin's slope in alpha. True margins are not straight lines: these estimates
order cells for the screen and are reported nowhere.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lmms_steer.models.batches import ShrinkingRunner
from lmms_steer.replay.base_pass import last_logits
from lmms_steer.replay.setup import kept_positions, prompt_mask
from lmms_steer.search.plan import Cell
from lmms_steer.search.questions import OtherTask, PreparedBatch, Question
from lmms_steer.search.scorers import LetterScorer
from lmms_steer.statistics import Floats
from lmms_steer.steering.anatomy import decoder_layers
from lmms_steer.steering.decoder_inputs import decoder_mask
from lmms_steer.steering.placeholders import placeholders
from lmms_steer.steering.positions import ids_of
from lmms_steer.vectors.steering_vectors import SteeringVectors

Slopes = dict[tuple[str, int, str], Tensor]
"""(vector, layer, target) ▸ the margin's slope in alpha, float [questions]."""


def predicted_shares(
    lm: Any,
    vectors: Mapping[str, SteeringVectors],
    cells: Sequence[Cell],
    questions: Sequence[Question],
    batch_size: int,
    task: Any = None,
) -> list[float]:
    """For each cell, the share of questions that it would answer correctly if margins were straight lines.

    Args:
        lm: the unsteered model.
        vectors: the vectors by the names that cells use.
        cells: the cells.
        questions: the questions, each with a fixed set of answers.
        batch_size: questions in one pass; fewer after an out-of-memory error.
        task: the task, if it is not one of lmms-eval.
    """
    correct, runner = np.zeros(len(cells)), ShrinkingRunner()
    for first in range(0, len(questions), batch_size):
        batch = questions[first : first + batch_size]
        correct += np.sum(runner.run(batch, partial(_predicted_correct, lm, vectors, cells, task)), axis=0)
    shares: list[float] = (correct / len(questions)).tolist()
    return shares


def gradients_of_margin(
    model: Any, inputs: dict[str, Any], letters: Any, kept: int | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The gradient of the correct answer's margin at each layer's output.

    The model's parameters are frozen meanwhile.

    Args:
        model: an image-text-to-text model of transformers.
        inputs: a batch, as its processor gives it.
        letters: the answers of the batch's questions: a `LetterScorer`, or another object with its method `margin`.
        kept: how many last positions' logits `margin` takes; None for the last one's alone.

    Returns:
        the margin of the correct answer over the best other, float [questions]; for each layer the gradient of their
        sum, float [rows, positions, width], a row a question unless its answers have one each.
    """
    layers = decoder_layers(model)
    outputs: list[Tensor] = []

    def start_gradient(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # parameters are frozen, so the gradient has to begin at the residual stream
        hidden = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_()
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    def record_output(_: Any, __: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)
        outputs[-1].retain_grad()

    handles = [layers[0].register_forward_pre_hook(start_gradient, with_kwargs=True)]
    handles += [layer.register_forward_hook(record_output) for layer in layers]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            margin: Tensor = letters.margin(last_logits(model, inputs, kept))
            margin.sum().backward()  # type: ignore[no-untyped-call]
    finally:
        for handle in handles:
            handle.remove()
        for parameter in trainable:
            parameter.requires_grad_(True)
    return margin.detach().cpu(), [output.grad for output in outputs if output.grad is not None]


def _predicted_correct(
    lm: Any, vectors: Mapping[str, SteeringVectors], cells: Sequence[Cell], task: Any, batch: Sequence[Question]
) -> list[Floats]:
    """For each question, float [cells]: 1 where the predicted margin is above 0."""
    margin, slopes = margin_slopes(lm, vectors, cells, task, batch)
    lines = [margin + cell.alpha * slopes[cell.vector, cell.layer, cell.tokens] for cell in cells]
    return [(column > 0).double().numpy() for column in torch.stack(lines, 1)]


def margin_slopes(
    lm: Any, vectors: Mapping[str, SteeringVectors], cells: Sequence[Cell], task: Any, batch: Sequence[Question]
) -> tuple[Tensor, Slopes]:
    """The margin of the correct answer over the best other, and its slopes.

    Args:
        lm, vectors, cells, task: as for `predicted_shares`; the cells' alphas are not used.
        batch: the questions of one pass.

    Returns:
        the margins, float [questions], and their slopes in alpha.
    """
    if isinstance(task, OtherTask):
        prepared = task.prepare(lm, batch)
    else:
        inputs = lm.model_inputs([q.text for q in batch], [q.visuals for q in batch])
        prepared = PreparedBatch(inputs, LetterScorer(lm, batch))
    inputs, scored = prepared.inputs, prepared.scored
    margin, gradients = gradients_of_margin(lm.model, inputs, prepared.scorer, kept_positions(scored))
    ids, attention = ids_of(inputs), decoder_mask(inputs)
    media = placeholders(lm.model.config)
    special = getattr(lm.tokenizer, "all_special_ids", None)
    masks = {t: prompt_mask(ids, attention, media, t, special, scored) for t in {c.tokens for c in cells}}
    slopes = {}
    for vector, layer, tokens in {(c.vector, c.layer, c.tokens) for c in cells}:
        gradient = gradients[layer].float()
        direction = torch.from_numpy(vectors[vector][layer].copy()).to(gradient)
        of_rows = ((gradient @ direction) * masks[tokens]).sum(1).cpu()
        if prepared.question_of is None:
            slopes[vector, layer, tokens] = of_rows
        else:
            slopes[vector, layer, tokens] = torch.zeros(len(batch)).index_add(0, prepared.question_of, of_rows)
    return margin, slopes
